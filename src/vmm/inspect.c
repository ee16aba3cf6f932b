/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Numbers that JSON's consumers may round (above 2^53) are hexadecimal strings. Zero fields are
 * left out, as in a saved state, so that what stands out is what differs from the default. */
#include "vmm/inspect.h"

#include "base/text.h"
#include "engine/x86.h"

#include <inttypes.h>
#include <string.h>

enum { BYTES_MAX = 8192 };

static json_t *inspect_uint(const uint8_t *at, size_t size)
{
    uint64_t n = 0;
    memcpy(&n, at, size);
    if (n <= 1ull << 53)
        return json_integer((json_int_t)n);
    char text[20];
    snprintf(text, sizeof text, "0x%" PRIx64, n);
    return json_string(text);
}

static json_t *inspect_bytes(const uint8_t *data, size_t len)
{
    AUTO(buf_fini) struct buf hex = { 0 };
    size_t shown = len < BYTES_MAX ? len : BYTES_MAX;
    for (size_t i = 0; i < shown; i++)
        buf_printf(&hex, "%02x", data[i]);
    if (shown < len)
        buf_printf(&hex, "... (%zu bytes)", len);
    return json_string(hex.data ? (const char *)hex.data : "");
}

static bool all_zero(const uint8_t *data, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (data[i])
            return false;
    return true;
}

static json_t *inspect_field(const struct state_field *field, const uint8_t *state)
{
    const uint8_t *at = state + field->offset;
    switch (field->type) {
    case STATE_UINT_: return inspect_uint(at, field->size);
    case STATE_BYTES_: return inspect_bytes(at, field->size);
    case STATE_VARBYTES_: {
        const uint8_t *data;
        size_t len;
        memcpy(&data, at, sizeof data);
        memcpy(&len, state + field->len_offset, sizeof len);
        return inspect_bytes(data, len);
    }
    case STATE_UINTS_:
    case STATE_STRUCT_: break;
    case STATE_END_: return NULL;
    }
    bool nested = field->type == STATE_STRUCT_;
    if (nested && field->count == 1)
        return inspect_state(field->sub, at);
    json_t *list = json_array();
    for (size_t i = 0; i < field->count; i++, at += field->size)
        json_array_append_new(list, nested ? inspect_state(field->sub, at)
                                           : inspect_uint(at, field->size));
    return list;
}

json_t *inspect_state(const struct state_desc *desc, const void *state)
{
    json_t *object = json_object();
    for (const struct state_field *field = desc->fields; field->type != STATE_END_; field++) {
        size_t size = field->type == STATE_VARBYTES_ ? sizeof(void *) : field->size * field->count;
        if (!all_zero((const uint8_t *)state + field->offset, size))
            json_object_set_new(object, field->name, inspect_field(field, state));
    }
    return object;
}

json_t *inspect_devices(struct machine *m)
{
    json_t *list = json_array();
    for (const struct device *dev = m->devices; dev; dev = dev->next)
        json_array_append_new(list,
                              json_pack("{s:s, s:s, s:s}", "id", dev->id, "type", dev->type->name,
                                        "about", dev->type->about ? dev->type->about : ""));
    return list;
}

int inspect_device(struct machine *m, const char *id, json_t **out, struct err *err)
{
    const struct device *dev = machine_find_device(m, id);
    if (!dev)
        return err_set(err, ENOENT,
                       "there is no device '%.31s'; inspect without a device lists them", id);
    const struct state_desc *desc = dev->type->state;
    *out = desc ? inspect_state(desc, (const char *)dev + desc->base) : json_object();
    return 0;
}

int inspect_vcpu(struct machine *m, unsigned index, json_t **out, struct err *err)
{
    if (index >= m->cpus)
        return err_set(err, ENOENT, "there is no vCPU %u; the VM has %u", index, m->cpus);
    struct arch_state state;
    memset(&state, 0, sizeof state);
    int r = m->engine->type->get_state(m->vcpus[index], &state, err);
    if (r == 0)
        *out = inspect_state(&arch_state_desc, &state);
    return r;
}
