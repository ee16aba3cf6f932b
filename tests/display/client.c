/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A viewer made with libvncclient, as other programs make theirs:
 *
 *     vnc_client ADDRESS ENCODINGS picture FILE    all of the screen, as lines of red, green, blue
 *     vnc_client ADDRESS ENCODINGS watch PIXELS    what changes, until so many came and a second
 * more more than so many take
 *
 * ADDRESS is HOST:PORT or a socket's path; ENCODINGS are libvncclient's words ("tight", "zrle
 * raw"). Both print the size, updates, and pixels in them, for a script.
 */
#include <rfb/rfbclient.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { LIMIT_S = 100 };

static struct {
    unsigned long updates, pixels; /* updates that had any */
    rfbBool some;                  /* the update that is coming has */
} seen;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void area_came(rfbClient *client, int x, int y, int w, int h)
{
    (void)client, (void)x, (void)y;
    seen.pixels += (unsigned long)w * (unsigned long)h;
    seen.some = w && h ? TRUE : seen.some;
}

static void update_came(rfbClient *client)
{
    (void)client;
    seen.updates += seen.some ? 1 : 0;
    seen.some = FALSE;
}

/* Reads what comes until that time, or so much came; false: the server is gone or talks nonsense.
 */
static rfbBool follow(rfbClient *client, double end, unsigned long updates, unsigned long pixels)
{
    while (now() < end && seen.updates < updates && seen.pixels < pixels) {
        int n = WaitForMessage(client, 20000);
        if (n < 0 || (n > 0 && !HandleRFBServerMessage(client)))
            return FALSE;
    }
    return TRUE;
}

static int picture_write(const rfbClient *client, const char *path)
{
    FILE *file = fopen(path, "wb");
    if (!file)
        return -1;
    for (int i = 0; i < client->width * client->height; i++)
        fwrite(client->frameBuffer + 4 * (size_t)i, 1, 3, file);
    return fclose(file);
}

static void quiet(const char *format, ...) { (void)format; }

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "vnc_client ADDRESS ENCODINGS picture FILE | watch PIXELS\n");
        return 2;
    }
    rfbBool watch = strcmp(argv[3], "watch") == 0;
    rfbClientLog = quiet;
    rfbClient *client = rfbGetClient(8, 3, 4); /* red, green, blue in memory */
    client->appData.encodingsString = argv[2];
    client->appData.useRemoteCursor = TRUE;
    client->appData.enableJPEG = FALSE;
    client->GotFrameBufferUpdate = area_came;
    client->FinishedFrameBufferUpdate = update_came;
    char *words[] = { argv[0], argv[1], NULL };
    int count = 2;
    if (strchr(argv[1], '/')) { /* a port of its own would not fit a path */
        client->serverHost = strdup(argv[1]);
        count = 1;
    }
    if (!rfbInitClient(client, &count, words)) {
        fprintf(stderr, "no connection to %s\n", argv[1]);
        return 1;
    }
    double start = now();
    unsigned long pixels = watch ? strtoul(argv[4], NULL, 10) : ~0ul;
    if (!follow(client, start + LIMIT_S, watch ? ~0ul : 1, pixels) ||
        (watch && !follow(client, now() + 1, ~0ul, ~0ul))) {
        fprintf(stderr, "the server has ended the connection, or cannot be understood\n");
        return 1;
    }
    if (!watch && seen.updates == 0) {
        fprintf(stderr, "no picture within %d s\n", LIMIT_S);
        return 1;
    }
    if (!watch && picture_write(client, argv[4]) != 0) {
        perror(argv[4]);
        return 1;
    }
    printf("width=%d height=%d updates=%lu pixels=%lu seconds=%.3f\n", client->width,
           client->height, seen.updates, seen.pixels, now() - start);
    rfbClientCleanup(client);
    return 0;
}
