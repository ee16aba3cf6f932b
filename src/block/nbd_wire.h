/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The NBD protocol's numbers (NetworkBlockDevice/nbd, doc/proto.md); all are big endian on the
 * wire.
 */
#ifndef BLOCK_NBD_WIRE_H
#define BLOCK_NBD_WIRE_H

#include <stdint.h>

#define NBD_MAGIC 0x4e42444d41474943ull      /* "NBDMAGIC" */
#define NBD_OPTS_MAGIC 0x49484156454f5054ull /* "IHAVEOPT" */
#define NBD_OPTS_REPLY_MAGIC 0x0003e889045565a9ull

enum {
    NBD_REQUEST_MAGIC = 0x25609513,
    NBD_SIMPLE_MAGIC = 0x67446698,
    NBD_CHUNK_MAGIC = 0x668e33ef
};
enum { NBD_DEFAULT_PORT = 10809, NBD_NAME_MAX = 4096 };

enum nbd_handshake_flag { NBD_FLAG_FIXED_NEWSTYLE = 1, NBD_FLAG_NO_ZEROES = 2 };

enum nbd_option {
    NBD_OPT_EXPORT_NAME = 1,
    NBD_OPT_ABORT = 2,
    NBD_OPT_LIST = 3,
    NBD_OPT_STARTTLS = 5,
    NBD_OPT_INFO = 6,
    NBD_OPT_GO = 7,
    NBD_OPT_STRUCTURED_REPLY = 8,
    NBD_OPT_LIST_META_CONTEXT = 9,
    NBD_OPT_SET_META_CONTEXT = 10,
};

enum nbd_option_reply {
    NBD_REP_ACK = 1,
    NBD_REP_SERVER = 2,
    NBD_REP_INFO = 3,
    NBD_REP_META_CONTEXT = 4,
};
#define NBD_REP_ERR_UNSUP 0x80000001u
#define NBD_REP_ERR_POLICY 0x80000002u
#define NBD_REP_ERR_INVALID 0x80000003u
#define NBD_REP_ERR_TLS_REQD 0x80000005u
#define NBD_REP_ERR_UNKNOWN 0x80000006u
#define NBD_REP_ERR_TOO_BIG 0x80000009u

enum nbd_info {
    NBD_INFO_EXPORT = 0,
    NBD_INFO_NAME = 1,
    NBD_INFO_DESCRIPTION = 2,
    NBD_INFO_BLOCK_SIZE = 3
};

enum nbd_export_flag {
    NBD_FLAG_HAS_FLAGS = 1 << 0,
    NBD_FLAG_READ_ONLY = 1 << 1,
    NBD_FLAG_SEND_FLUSH = 1 << 2,
    NBD_FLAG_SEND_FUA = 1 << 3,
    NBD_FLAG_SEND_TRIM = 1 << 5,
    NBD_FLAG_SEND_WRITE_ZEROES = 1 << 6,
    NBD_FLAG_SEND_DF = 1 << 7,
    NBD_FLAG_CAN_MULTI_CONN = 1 << 8,
    NBD_FLAG_SEND_CACHE = 1 << 10,
};

enum nbd_command {
    NBD_CMD_READ = 0,
    NBD_CMD_WRITE = 1,
    NBD_CMD_DISC = 2,
    NBD_CMD_FLUSH = 3,
    NBD_CMD_TRIM = 4,
    NBD_CMD_CACHE = 5,
    NBD_CMD_WRITE_ZEROES = 6,
    NBD_CMD_BLOCK_STATUS = 7,
};

enum nbd_command_flag {
    NBD_CMD_FLAG_FUA = 1 << 0,
    NBD_CMD_FLAG_NO_HOLE = 1 << 1,
    NBD_CMD_FLAG_DF = 1 << 2,
    NBD_CMD_FLAG_REQ_ONE = 1 << 3,
    NBD_CMD_FLAG_FAST_ZERO = 1 << 4,
};

enum nbd_chunk_flag { NBD_CHUNK_DONE = 1 };
enum nbd_chunk_type {
    NBD_CHUNK_NONE = 0,
    NBD_CHUNK_OFFSET_DATA = 1,
    NBD_CHUNK_OFFSET_HOLE = 2,
    NBD_CHUNK_BLOCK_STATUS = 5,
    NBD_CHUNK_ERROR = 0x8001,
    NBD_CHUNK_ERROR_OFFSET = 0x8002,
};

/* Of the context base:allocation. */
enum nbd_state { NBD_STATE_HOLE = 1, NBD_STATE_ZERO = 2 };

struct nbd_wire_request {
    uint32_t magic;
    uint16_t flags, type;
    uint64_t cookie, offset;
    uint32_t len;
} __attribute__((packed));

struct nbd_wire_simple {
    uint32_t magic, error;
    uint64_t cookie;
} __attribute__((packed));

struct nbd_wire_chunk {
    uint32_t magic;
    uint16_t flags, type;
    uint64_t cookie;
    uint32_t len;
} __attribute__((packed));

struct nbd_wire_option {
    uint64_t magic;
    uint32_t option, len;
} __attribute__((packed));

struct nbd_wire_option_reply {
    uint64_t magic;
    uint32_t option, type, len;
} __attribute__((packed));

/* The protocol's own error numbers are Linux's for those that it has. */
static inline uint32_t nbd_error_of(int negative)
{
    switch (-negative) {
    case 0:
    case 1:                               /* EPERM */
    case 5:                               /* EIO */
    case 12:                              /* ENOMEM */
    case 22:                              /* EINVAL */
    case 28:                              /* ENOSPC */
    case 75:                              /* EOVERFLOW */
    case 95:                              /* ENOTSUP */
    case 108: return (uint32_t)-negative; /* ESHUTDOWN */
    case 30: return 1;                    /* EROFS */
    case 122: return 28;                  /* EDQUOT */
    default: return 5;
    }
}

#endif
