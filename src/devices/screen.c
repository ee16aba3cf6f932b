/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The pixels of the guest's screen, what changed in them, and when to look again. */
#include "devices/screen.h"

#include "base/checked.h"
#include "base/loop.h"

#include <fcntl.h>
#include <png.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MS 1000000ull
enum { BANDS = 64 }; /* changed areas told apart within one look */

/* How long nothing may have changed (upper) for looks to come at this distance. */
static const struct {
    uint64_t quiet_ns, interval_ns;
} paces[] = {
    { 1000 * MS, 25 * MS },
    { 5000 * MS, 100 * MS },
    { UINT64_MAX, 400 * MS },
};

struct band {
    unsigned x0, x1, y0, y1; /* [x0, x1) x [y0, y1) */
};

struct screen {
    int fd; /* owned */
    uint32_t *pixels;
    unsigned width, height;
    struct screen_source source; /* draw NULL: none */
    struct screen_sink sink;     /* changed NULL: none */
    struct loop_timer *timer;    /* armed while watched */
    bool watched;
    bool changed;        /* in this look */
    uint64_t changed_ns; /* when something last did, or was expected to */
    struct band bands[BANDS];
    unsigned band_count;
};

/* ---- looking ---- */

static void look_later(struct screen *screen)
{
    uint64_t now = monotonic_ns();
    unsigned i = 0;
    while (now - screen->changed_ns > paces[i].quiet_ns)
        i++;
    loop_timer_arm(screen->timer, now + paces[i].interval_ns);
}

static void bands_report(struct screen *screen)
{
    for (unsigned i = 0; screen->sink.changed && i < screen->band_count; i++) {
        const struct band *b = &screen->bands[i];
        screen->sink.changed(screen->sink.arg, b->x0, b->y0, b->x1 - b->x0, b->y1 - b->y0);
    }
    screen->band_count = 0;
}

void screen_refresh(struct screen *screen)
{
    if (!screen->source.draw)
        return;
    screen->changed = false;
    screen->source.draw(screen->source.arg, screen);
    if (screen->changed)
        screen->changed_ns = monotonic_ns();
    bands_report(screen);
}

static void time_to_look(void *arg)
{
    struct screen *screen = arg;
    screen_refresh(screen);
    look_later(screen);
}

void screen_watch(struct screen *screen, bool on)
{
    if (on == screen->watched)
        return;
    screen->watched = on;
    screen->changed_ns = monotonic_ns();
    if (on)
        time_to_look(screen);
    else
        loop_timer_disarm(screen->timer);
}

void screen_stir(struct screen *screen)
{
    uint64_t now = monotonic_ns();
    bool was_quiet = now - screen->changed_ns > paces[0].quiet_ns;
    screen->changed_ns = now;
    if (screen->watched && was_quiet)
        look_later(screen);
}

/* ---- drawing ---- */

/* Changed lines below each other become one area. */
static void band_add(struct screen *screen, unsigned x0, unsigned x1, unsigned y)
{
    struct band *last = screen->band_count ? &screen->bands[screen->band_count - 1] : NULL;
    bool joins = last && y >= last->y0 && y <= last->y1;

    screen->changed = true;
    if (!joins && screen->band_count < BANDS) {
        screen->bands[screen->band_count++] = (struct band){ x0, x1, y, y + 1 };
        return;
    }
    last->x0 = x0 < last->x0 ? x0 : last->x0;
    last->x1 = x1 > last->x1 ? x1 : last->x1;
    last->y0 = y < last->y0 ? y : last->y0;
    last->y1 = y + 1 > last->y1 ? y + 1 : last->y1;
}

void screen_resize(struct screen *screen, unsigned width, unsigned height)
{
    width = width < SCREEN_MAX_WIDTH ? width : SCREEN_MAX_WIDTH;
    height = height < SCREEN_MAX_HEIGHT ? height : SCREEN_MAX_HEIGHT;
    if (!width || !height || (width == screen->width && height == screen->height))
        return;
    screen->width = width;
    screen->height = height;
    screen->band_count = 0;
    memset(screen->pixels, 0, (size_t)width * height * 4);
    if (screen->sink.resized)
        screen->sink.resized(screen->sink.arg, width, height);
    band_add(screen, 0, width, 0);
    screen->bands[0].y1 = height;
}

void screen_line(struct screen *screen, unsigned x, unsigned y, unsigned width,
                 const uint32_t *pixels)
{
    if (y >= screen->height || x >= screen->width)
        return;
    width = width < screen->width - x ? width : screen->width - x;
    uint32_t *old = screen->pixels + (size_t)y * screen->width + x;
    if (memcmp(old, pixels, (size_t)width * 4) == 0)
        return;
    unsigned first = 0, end = width;
    while (first < end && old[first] == pixels[first])
        first++;
    while (end > first && old[end - 1] == pixels[end - 1])
        end--;
    if (first == end)
        return; /* it changed back meanwhile */
    memcpy(old + first, pixels + first, (size_t)(end - first) * 4);
    band_add(screen, x + first, x + end, y);
}

/* ---- pictures ---- */

bool screen_text(struct screen *screen, struct buf *out)
{
    return screen->source.text && screen->source.text(screen->source.arg, out);
}

bool screen_ask_size(struct screen *screen, unsigned width, unsigned height)
{
    if (!screen->source.resize)
        return false;
    screen->source.resize(screen->source.arg, width, height);
    return true;
}

int screen_png(const struct screen *screen, struct buf *out, struct err *err)
{
    png_image image = { .version = PNG_IMAGE_VERSION,
                        .width = screen->width,
                        .height = screen->height,
                        .format = PNG_FORMAT_RGB };
    size_t count = (size_t)screen->width * screen->height;
    AUTO(free) uint8_t *rgb = malloc(count * 3);
    if (!rgb)
        return err_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < count; i++) {
        rgb[3 * i] = (uint8_t)(screen->pixels[i] >> 16);
        rgb[3 * i + 1] = (uint8_t)(screen->pixels[i] >> 8);
        rgb[3 * i + 2] = (uint8_t)screen->pixels[i];
    }
    png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(image);
    AUTO(free) uint8_t *png = malloc(size);
    if (!png)
        return err_set(err, ENOMEM, "out of memory");
    if (!png_image_write_to_memory(&image, png, &size, 0, rgb, 0, NULL))
        return err_set(err, EIO, "cannot make the picture: %s", image.message);
    buf_add(out, png, size);
    return 0;
}

unsigned screen_width(const struct screen *screen) { return screen->width; }
unsigned screen_height(const struct screen *screen) { return screen->height; }
const uint32_t *screen_pixels(const struct screen *screen) { return screen->pixels; }
int screen_fd(const struct screen *screen) { return screen->fd; }

/* ---- life ---- */

void screen_set_source(struct screen *screen, const struct screen_source *source)
{
    screen->source = *source;
}

void screen_set_sink(struct screen *screen, const struct screen_sink *sink)
{
    screen->sink = *sink;
}

static int screen_memory(struct screen *screen, struct err *err)
{
    screen->fd = memfd_create("screen", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (screen->fd < 0 || ftruncate(screen->fd, SCREEN_BYTES) < 0 ||
        fcntl(screen->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return err_errno(err, errno, "cannot make memory for the screen");
    screen->pixels = mmap(NULL, SCREEN_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, screen->fd, 0);
    if (screen->pixels == MAP_FAILED) {
        screen->pixels = NULL;
        return err_errno(err, errno, "cannot map memory for the screen");
    }
    return 0;
}

int screen_create(struct loop *loop, struct screen **out, struct err *err)
{
    AUTO(screen_destroy) struct screen *screen = calloc(1, sizeof *screen);
    if (!screen)
        return err_set(err, ENOMEM, "out of memory");
    screen->fd = -1;
    screen->width = 640;
    screen->height = 480;
    int r = screen_memory(screen, err);
    if (r == 0)
        r = loop_timer_create(loop, time_to_look, screen, &screen->timer, err);
    if (r < 0)
        return r;
    *out = TAKE(screen);
    return 0;
}

void screen_destroy(struct screen *screen)
{
    if (!screen)
        return;
    if (screen->timer)
        loop_timer_destroy(screen->timer);
    if (screen->pixels)
        munmap(screen->pixels, SCREEN_BYTES);
    if (screen->fd >= 0)
        close(screen->fd);
    free(screen);
}
