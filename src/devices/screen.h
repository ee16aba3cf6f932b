/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the guest shows, as pixels: between the display adapter (VGA, virtio-gpu) that draws and
 * those who look (VNC, screenshots).
 *
 * The pixels lie in a memfd, so that the process that speaks VNC can have them without any of the
 * guest's memory. While somebody watches, the adapter is asked to draw some 40 times a second;
 * after a while without a change more and more seldom, until a key or a pointer moves. With nobody
 * watching nothing runs.
 *
 * Main loop only.
 */
#ifndef DEVICES_SCREEN_H
#define DEVICES_SCREEN_H

#include "base/cleanup.h"
#include "base/err.h"
#include "base/text.h"

#include <stdbool.h>
#include <stdint.h>

struct loop;
struct screen;

enum {
    SCREEN_MAX_WIDTH = 4096,
    SCREEN_MAX_HEIGHT = 2160,
    SCREEN_BYTES = SCREEN_MAX_WIDTH * SCREEN_MAX_HEIGHT * 4,
};

/* The adapter's part. `arg` is its own. */
struct screen_source {
    /* Draws by screen_resize and screen_line. */
    void (*draw)(void *arg, struct screen *screen);
    /* Appends the text on the screen, lines ended by newlines, as UTF-8; false: it shows no text
     * mode. May be NULL. */
    bool (*text)(void *arg, struct buf *out);
    /* Those who look would like this size: the guest hears of it. NULL: it cannot. */
    void (*resize)(void *arg, unsigned width, unsigned height);
    void *arg;
};

/* The watchers' part. */
struct screen_sink {
    void (*resized)(void *arg, unsigned width, unsigned height);
    void (*changed)(void *arg, unsigned x, unsigned y, unsigned width, unsigned height);
    void *arg;
};

int screen_create(struct loop *loop, struct screen **out, struct err *err);
void screen_destroy(struct screen *screen); /* NULL is fine; closes the memfd */
DEFINE_AUTO(struct screen *, screen_destroy)

void screen_set_source(struct screen *screen, const struct screen_source *source); /* copied */
void screen_set_sink(struct screen *screen, const struct screen_sink *sink);       /* copied */
int screen_fd(const struct screen *screen); /* SCREEN_BYTES long, sealed against shrinking */

/* Pixels are 0x00RRGGBB in host order, lines of `width` pixels one after the other. */
unsigned screen_width(const struct screen *screen);
unsigned screen_height(const struct screen *screen);
const uint32_t *screen_pixels(const struct screen *screen);

/* ---- For the source, inside draw ---- */

/* Sizes beyond the limits are cut. A new size makes the screen black. */
void screen_resize(struct screen *screen, unsigned width, unsigned height);
/* Line `y` looks like this now: only what differs is copied and reported. `pixels` may be guest
 * memory that changes meanwhile. x + width may reach beyond the edge. */
void screen_line(struct screen *screen, unsigned x, unsigned y, unsigned width,
                 const uint32_t *pixels);

/* ---- For watchers ---- */

/* Somebody (`on`) or nobody looks. */
void screen_watch(struct screen *screen, bool on);
/* Something probably changes soon (a key was pressed): look often again. */
void screen_stir(struct screen *screen);
/* Draws now, for a picture of this moment. */
void screen_refresh(struct screen *screen);
bool screen_text(struct screen *screen, struct buf *out);
/* Asks the guest for another size, which it may take or not; false: the adapter cannot ask. */
bool screen_ask_size(struct screen *screen, unsigned width, unsigned height);
/* A PNG file of the screen (without refresh). */
int screen_png(const struct screen *screen, struct buf *out, struct err *err);

#endif
