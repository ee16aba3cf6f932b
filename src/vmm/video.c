/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The VM's screen and keyboard as people use them: the display adapter, the VNC helper, and the
 * control commands that take pictures and press keys.
 */
#include "base/text.h"
#include "board/board.h"
#include "devices/input.h"
#include "devices/key_queue.h"
#include "devices/screen.h"
#include "devices/vga.h"
#include "devices/virtio/gpu.h"
#include "display/agent_link.h"
#include "display/display.h"
#include "display/keys.h"
#include "vmm/vmm.h"

#include <linux/input-event-codes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- at start ---- */

int video_plug(struct vmm *vmm, struct err *err)
{
    if (!vmm->options.video)
        return 0;
    struct vga_options vga = { .id = "vga0", .screen = vmm->screen };
    struct virtio_gpu_options gpu = { .id = "gpu0",
                                      .screen = vmm->screen,
                                      .vga = vmm->options.video == VIDEO_VIRTIO_VGA };
    struct pci_device *pci;
    int r = 0;
    if (vmm->options.video != VIDEO_VGA) /* copying a picture holds up no disk */
        r = machine_io_loop(vmm->machine, "video", &gpu.loop, err);
    if (r == 0)
        r = vmm->options.video == VIDEO_VGA ? vga_create(vmm->machine, &vga, &pci, err)
                                            : virtio_gpu_create(vmm->machine, &gpu, &pci, err);
    if (r == 0)
        r = vmm_plug(vmm, pci, err);
    return r < 0 ? err_prefix(err, "--video") : 0;
}

int video_open(struct vmm *vmm, struct err *err)
{
    const struct viewer_options *viewer = &vmm->options.viewer;
    int r = vmm->options.video ? screen_create(vmm->loop, &vmm->screen, err) : 0;
    if (r < 0 || !viewer->address)
        return r;
    AUTO(fd_close) int agent_fd = -1;
    if (options_has_clipboard(&vmm->options) && !viewer->no_clipboard)
        r = agent_link_create(vmm->loop, &agent_fd, &vmm->agent, err);
    if (r < 0)
        return err_prefix(err, "--display");
    struct display_options options = { .keymap = viewer->keymap,
                                       .password_file = viewer->password_file,
                                       .tls_cert = viewer->tls_cert,
                                       .tls_key = viewer->tls_key,
                                       .tls_ca = viewer->tls_ca,
                                       .resizable = vmm->options.video != VIDEO_VGA,
                                       .agent_fd = agent_fd };
    AUTO(free) char *address = strdup(viewer->address);
    if (!address)
        return err_set(err, ENOMEM, "out of memory");
    r = display_address_parse(address, &options, err);
    if (r == 0 && options.unix_path)
        vmm_keep_removed(vmm, viewer->address + strlen("unix:"));
    if (r == 0)
        r = display_create(vmm->loop, &options, vmm->screen, vmm->input, &vmm->display, err);
    if (r < 0)
        return err_prefix(err, "--display");
    if (options.port == 0 && !options.unix_path)
        vmm_say("the screen is at VNC %s", display_address(vmm->display));
    return 0;
}

json_t *video_status(const struct vmm *vmm)
{
    if (!vmm->screen)
        return json_null();
    json_t *status = json_pack("{s:i, s:i}", "width", (int)screen_width(vmm->screen), "height",
                               (int)screen_height(vmm->screen));
    if (vmm->display)
        json_object_update_new(
            status, json_pack("{s:s, s:i, s:b, s:b}", "vnc", display_address(vmm->display),
                              "viewers", (int)display_viewers(vmm->display), "alive",
                              display_alive(vmm->display), "clipboard", vmm->agent != NULL));
    return status;
}

/* ---- pictures ---- */

/* Into a regular file only: writing may not keep the main loop waiting. */
static int picture_to_fd(const struct buf *png, int take_fd, struct err *err)
{
    struct stat st;
    AUTO(fd_close) int fd = take_fd;
    if (fd < 0)
        return err_set(err, EBADF, "no descriptor came with the request");
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        return err_set(err, EINVAL, "the descriptor is no regular file");
    int r = write_full(fd, png->data, png->len);
    return r < 0 ? err_errno(err, -r, "cannot write the picture") : 0;
}

static json_t *picture_size(const struct vmm *vmm)
{
    return json_pack("{s:i, s:i}", "width", (int)screen_width(vmm->screen), "height",
                     (int)screen_height(vmm->screen));
}

static int picture_png(struct vmm *vmm, struct control_request *request, bool use_fd,
                       json_t **result, struct err *err)
{
    AUTO(buf_fini) struct buf png = { 0 };
    AUTO(buf_fini) struct buf text = { 0 };
    screen_refresh(vmm->screen);
    int r = screen_png(vmm->screen, &png, err);
    if (r == 0 && use_fd)
        r = picture_to_fd(&png, control_take_fd(request), err);
    else if (r == 0 && png.len > CONTROL_MAX_QUEUE / 2)
        r = err_set(err, EFBIG,
                    "the picture is too large for an answer; send a descriptor along "
                    "with \"fd\": true");
    if (r < 0)
        return r;
    *result = picture_size(vmm);
    if (!use_fd) {
        buf_base64(&text, png.data, png.len);
        json_object_set_new(*result, "png", json_stringn((const char *)text.data, text.len));
    }
    return 0;
}

int video_screenshot(struct vmm *vmm, struct control_request *request, const json_t *args,
                     json_t **result, struct err *err)
{
    const char *format = "png";
    bool use_fd = false;
    int r = json_get_string(args, "format", &format, err);
    if (r >= 0)
        r = json_get_bool(args, "fd", &use_fd, err);
    if (r < 0)
        return r;
    if (!vmm->screen)
        return err_set(err, ENODEV, "the VM has no screen; start it with --video vga or --display");
    if (strcmp(format, "png") == 0)
        return picture_png(vmm, request, use_fd, result, err);
    if (strcmp(format, "text") != 0)
        return err_set(err, EINVAL, "'format' is png or text");
    AUTO(buf_fini) struct buf text = { 0 };
    if (!screen_text(vmm->screen, &text))
        return err_set(err, ENODATA, "the screen shows graphics, not text; take a png");
    *result = json_pack("{s:s%}", "text", text.data, text.len);
    return *result ? 0 : err_set(err, EINVAL, "the text on the screen is not valid UTF-8");
}

/* ---- keys ---- */

enum { KEY_PACE_MS = 12 };

struct typing {
    struct vmm *vmm;
    struct control_request *request;
    struct key_queue *keys;
};

static void typing_end(struct typing *typing, const struct err *err)
{
    typing->vmm->typing = NULL;
    control_finish(typing->request, NULL, err);
    key_queue_destroy(typing->keys);
    free(typing);
}

static void typing_idle(void *arg, bool taken)
{
    struct typing *typing = arg;
    struct err err;

    if (typing->vmm->screen)
        screen_stir(typing->vmm->screen);
    if (!taken)
        err_set(&err, ENODEV, "the VM has no keyboard that its system uses");
    typing_end(typing, taken ? NULL : &err);
}

static int typing_add(struct typing *typing, unsigned code, bool down, struct err *err)
{
    if (!key_queue_add(typing->keys, code, down))
        return err_set(err, E2BIG, "at most %d key movements in one request", KEY_QUEUE_MAX);
    return 0;
}

static int typing_text(struct typing *typing, const char *text, struct err *err)
{
    int r = 0;
    for (; r == 0 && *text; text++) {
        bool shift;
        unsigned code = key_of_char(*text, &shift);
        if (!code)
            return err_set(err, EINVAL, "no key of a US keyboard writes character 0x%02x",
                           (unsigned char)*text);
        if (shift)
            r = typing_add(typing, KEY_LEFTSHIFT, true, err);
        if (r == 0)
            r = typing_add(typing, code, true, err);
        if (r == 0)
            r = typing_add(typing, code, false, err);
        if (r == 0 && shift)
            r = typing_add(typing, KEY_LEFTSHIFT, false, err);
    }
    return r;
}

/* "ctrl-alt-delete": down in this order, up in the reverse. */
static int typing_chord(struct typing *typing, const char *chord, struct err *err)
{
    enum { CHORD_MAX = 8 };
    unsigned codes[CHORD_MAX], count = 0;
    int r = 0;
    for (const char *name = chord;; name++) {
        size_t len = strcspn(name, "-");
        unsigned code = key_of_name(name, len);
        if (!code)
            return err_set(err, EINVAL, "there is no key '%.*s'", (int)(len < 40 ? len : 40), name);
        if (count == CHORD_MAX)
            return err_set(err, E2BIG, "at most %d keys at once", CHORD_MAX);
        codes[count++] = code;
        r = typing_add(typing, code, true, err);
        name += len;
        if (r < 0 || !*name)
            break;
    }
    while (r == 0 && count)
        r = typing_add(typing, codes[--count], false, err);
    return r;
}

static int typing_fill(struct typing *typing, const json_t *args, struct err *err)
{
    const json_t *keys = json_object_get(args, "keys");
    const char *text = NULL;
    int r = json_get_string(args, "text", &text, err);
    if (r < 0)
        return r;
    if (keys && !json_is_array(keys))
        return err_set(err, EINVAL, "'keys' is an array of strings like \"ctrl-alt-delete\"");
    r = 0;
    for (size_t i = 0; r == 0 && i < json_array_size(keys); i++) {
        const char *chord = json_string_value(json_array_get(keys, i));
        r = chord ? typing_chord(typing, chord, err)
                  : err_set(err, EINVAL, "'keys' is an array of strings");
    }
    if (r == 0 && text)
        r = typing_text(typing, text, err);
    if (r == 0 && key_queue_is_empty(typing->keys))
        r = err_set(err, EINVAL, "'keys' or 'text' says what to type");
    return r;
}

int video_send_keys(struct vmm *vmm, struct control_request *request, const json_t *args,
                    struct err *err)
{
    if (vmm->typing)
        return err_set(err, EBUSY, "other keys are still being sent");
    struct typing *typing = calloc(1, sizeof *typing);
    if (!typing)
        return err_set(err, ENOMEM, "out of memory");
    int r = key_queue_create(vmm->loop, vmm->input, KEY_PACE_MS, typing_idle, typing, &typing->keys,
                             err);
    if (r == 0)
        r = typing_fill(typing, args, err);
    if (r < 0) {
        key_queue_destroy(typing->keys);
        free(typing);
        return r;
    }
    typing->vmm = vmm;
    typing->request = request;
    vmm->typing = typing;
    if (vmm->screen)
        screen_stir(vmm->screen);
    key_queue_start(typing->keys);
    return CONTROL_LATER;
}

int video_send_pointer(struct vmm *vmm, const json_t *args, struct err *err)
{
    uint64_t x = 0, y = 0, buttons = 0;
    int r = vmm->screen ? 0 : err_set(err, ENODEV, "the VM has no screen");
    if (r == 0)
        r = json_get_u64(args, "x", 0, SCREEN_MAX_WIDTH, &x, err);
    if (r >= 0)
        r = json_get_u64(args, "y", 0, SCREEN_MAX_HEIGHT, &y, err);
    if (r >= 0)
        r = json_get_u64(args, "buttons", 0, 7, &buttons, err);
    if (r < 0)
        return r;
    if (!input_pointer(vmm->input, (unsigned)x, (unsigned)y, screen_width(vmm->screen),
                       screen_height(vmm->screen), (unsigned)buttons))
        return err_set(err, ENODEV, "the VM has no pointer that its system uses");
    screen_stir(vmm->screen);
    return 0;
}

/* ---- at the end ---- */

void video_close(struct vmm *vmm)
{
    struct err err;
    if (vmm->typing) {
        err_set(&err, ECANCELED, "the VM ends");
        typing_end(vmm->typing, &err);
    }
    agent_link_destroy(TAKE(vmm->agent));
    display_destroy(TAKE(vmm->display));
    screen_destroy(TAKE(vmm->screen));
}
