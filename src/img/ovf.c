/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Parsing OVF. A document type is refused before libxml2 sees the text, so there are no entities to
 * expand or to fetch; namespaces are not looked at, since programs disagree on prefixes.
 */
#include "img/ovf.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/json.h"
#include "base/text.h"

#include <libxml/parser.h>
#include <libxml/tree.h>
#include <string.h>

enum { FILES_MAX = 256 };

struct ovf_file {
    char id[OVF_TEXT], href[OVF_TEXT], compression[32];
    bool chunked;
};
struct parse {
    struct ovf *ovf;
    struct ovf_file *files;
    unsigned file_count;
};

static bool is_element(const xmlNode *node, const char *name)
{
    return node->type == XML_ELEMENT_NODE && !strcmp((const char *)node->name, name);
}

static bool attribute(const xmlNode *node, const char *name, char *out, size_t room)
{
    out[0] = 0;
    for (const xmlAttr *a = node->properties; a; a = a->next) {
        if (strcmp((const char *)a->name, name))
            continue;
        xmlChar *text = xmlNodeListGetString(node->doc, a->children, 1);
        bool fits = text && strlen((const char *)text) < room;
        if (fits)
            strcpy(out, (const char *)text);
        xmlFree(text);
        return fits;
    }
    return false;
}

static void content(xmlNode *node, char *out, size_t room)
{
    xmlChar *text = xmlNodeGetContent(node);
    snprintf(out, room, "%s", text ? (const char *)text : "");
    xmlFree(text);
}

/* "byte * 2^30", "GigaBytes", "MegaBytes"... of a number; 0: none known. */
static uint64_t unit_of(const char *text)
{
    static const struct {
        const char *word;
        unsigned shift;
    } words[] = { { "kilo", 10 }, { "mega", 20 }, { "giga", 30 }, { "tera", 40 },
                  { "KB", 10 },   { "MB", 20 },   { "GB", 30 },   { "TB", 40 } };
    const char *power = strstr(text, "2^");
    uint64_t n;
    if (!text[0] || !strcmp(text, "byte") || !strcmp(text, "bytes"))
        return 1;
    if (power)
        return number_parse(power + 2, 0, 60, &n, NULL) < 0 ? 0 : 1ull << n;
    for (unsigned i = 0; i < ARRAY_LEN(words); i++)
        if (!strncasecmp(text, words[i].word, strlen(words[i].word)))
            return 1ull << words[i].shift;
    return 0;
}

static bool amount(const char *number, const char *unit, uint64_t *out)
{
    uint64_t n, times = unit_of(unit);
    return times && number_parse(number, 0, INT64_MAX, &n, NULL) == 0 && mul_u64(n, times, out) &&
           *out <= 1ull << 62;
}

/* ---- sections ---- */

static int take_file(struct parse *p, const xmlNode *node, struct err *err)
{
    char chunk[32];
    if (p->file_count == FILES_MAX)
        return err_set(err, E2BIG, "its description names more than %d files", FILES_MAX);
    struct ovf_file *f = &p->files[p->file_count++];
    if (!attribute(node, "id", f->id, sizeof f->id) ||
        !attribute(node, "href", f->href, sizeof f->href))
        return err_set(err, EINVAL, "its description has a file without id or name");
    attribute(node, "compression", f->compression, sizeof f->compression);
    f->chunked = attribute(node, "chunkSize", chunk, sizeof chunk);
    return 0;
}

static int take_disk(struct parse *p, const xmlNode *node, struct err *err)
{
    char ref[OVF_TEXT], number[32], unit[OVF_TEXT];
    if (p->ovf->disk_count == OVF_DISKS_MAX)
        return err_set(err, E2BIG, "its description has more than %d disks", OVF_DISKS_MAX);
    struct ovf_disk *d = &p->ovf->disks[p->ovf->disk_count++];
    if (!attribute(node, "diskId", d->id, sizeof d->id))
        return err_set(err, EINVAL, "its description has a disk without id");
    attribute(node, "capacity", number, sizeof number);
    attribute(node, "capacityAllocationUnits", unit, sizeof unit);
    if (!amount(number, unit, &d->capacity))
        return err_set(err, EINVAL, "its disk %s has a capacity of %s %s, which makes no sense",
                       d->id, number, unit);
    attribute(node, "format", d->format, sizeof d->format);
    d->parent = attribute(node, "parentRef", unit, sizeof unit);
    if (!attribute(node, "fileRef", ref, sizeof ref))
        return 0;
    for (unsigned i = 0; i < p->file_count; i++)
        if (!strcmp(p->files[i].id, ref)) {
            strcpy(d->file, p->files[i].href);
            strcpy(d->compression, p->files[i].compression);
            d->chunked = p->files[i].chunked;
            return 0;
        }
    return err_set(err, EINVAL, "its disk %s is in a file %s that the description does not list",
                   d->id, ref);
}

static void take_item(struct ovf *ovf, xmlNode *item)
{
    char type[32] = "", quantity[32] = "", unit[OVF_TEXT] = "";
    uint64_t n;
    if (ovf->item_count == OVF_ITEMS_MAX)
        return;
    struct ovf_item *out = &ovf->items[ovf->item_count];
    *out = (struct ovf_item){ 0 };
    for (xmlNode *c = item->children; c; c = c->next) {
        if (is_element(c, "ResourceType"))
            content(c, type, sizeof type);
        else if (is_element(c, "VirtualQuantity"))
            content(c, quantity, sizeof quantity);
        else if (is_element(c, "AllocationUnits"))
            content(c, unit, sizeof unit);
        else if (is_element(c, "ElementName") || (is_element(c, "Caption") && !out->name[0]))
            content(c, out->name, sizeof out->name);
        else if (is_element(c, "ResourceSubType"))
            content(c, out->subtype, sizeof out->subtype);
        else if (is_element(c, "Connection") || is_element(c, "HostResource"))
            content(c, out->connection, sizeof out->connection);
    }
    if (number_parse(type, 1, 65535, &n, NULL) < 0)
        return;
    out->type = (unsigned)n;
    if (quantity[0] && !(n == 4 ? amount(quantity, unit[0] ? unit : "MB", &out->quantity)
                                : number_parse(quantity, 0, INT64_MAX, &out->quantity, NULL) == 0))
        out->quantity = 0;
    ovf->item_count++;
}

static void take_system(struct ovf *ovf, xmlNode *system)
{
    attribute(system, "id", ovf->name, sizeof ovf->name);
    for (xmlNode *n = system->children; n; n = n->next) {
        if (is_element(n, "Name"))
            content(n, ovf->name, sizeof ovf->name);
        for (xmlNode *c = n->children; c && n->type == XML_ELEMENT_NODE; c = c->next) {
            if (is_element(n, "OperatingSystemSection") && is_element(c, "Description"))
                content(c, ovf->os, sizeof ovf->os);
            if (is_element(n, "VirtualHardwareSection") && is_element(c, "Item"))
                take_item(ovf, c);
        }
    }
}

static int take_section(struct parse *p, xmlNode *section, const char *name, const char *entry,
                        int (*take)(struct parse *, const xmlNode *, struct err *), struct err *err)
{
    int r = 0;
    if (!is_element(section, name))
        return 0;
    for (xmlNode *n = section->children; n && r == 0; n = n->next)
        if (is_element(n, entry))
            r = take(p, n, err);
    return r;
}

static int take_envelope(struct parse *p, xmlNode *root, struct err *err)
{
    int r = 0;
    if (!root || !is_element(root, "Envelope"))
        return err_set(err, EINVAL, "its description is no OVF envelope");
    for (xmlNode *n = root->children; n && r == 0; n = n->next)
        r = take_section(p, n, "References", "File", take_file, err);
    for (xmlNode *n = root->children; n && r == 0; n = n->next) {
        r = take_section(p, n, "DiskSection", "Disk", take_disk, err);
        if (r == 0)
            r = take_section(p, n, "Section", "Disk", take_disk, err); /* version 0.9 */
        if (is_element(n, "VirtualSystem") && !p->ovf->item_count)
            take_system(p->ovf, n);
    }
    return r;
}

static void __attribute__((format(printf, 2, 3))) be_silent(void *arg, const char *format, ...) {}

int ovf_parse(const char *text, size_t len, struct ovf *out, struct err *err)
{
    *out = (struct ovf){ 0 };
    out->disks = calloc(OVF_DISKS_MAX, sizeof *out->disks);
    out->items = calloc(OVF_ITEMS_MAX, sizeof *out->items);
    struct parse parse = { out, calloc(FILES_MAX, sizeof *parse.files), 0 };
    int r = 0;
    if (!out->disks || !out->items || !parse.files)
        r = err_set(err, ENOMEM, "out of memory");
    else if (len > INT32_MAX || memchr(text, 0, len))
        r = err_set(err, EINVAL, "its description is no text in UTF-8");
    else if (memmem(text, len, "<!", 2) &&
             (memmem(text, len, "<!DOCTYPE", 9) || memmem(text, len, "<!ENTITY", 8)))
        r = err_set(err, EPERM, "its description has a document type, which is refused");
    xmlDoc *doc = NULL;
    if (r == 0) {
        xmlSetGenericErrorFunc(NULL, be_silent); /* some errors come although NOERROR says no */
        /* Whatever it declares: in another encoding "<!DOCTYPE" could look different. */
        doc = xmlReadMemory(text, (int)len, NULL, "UTF-8",
                            XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING |
                                XML_PARSE_NOBLANKS);
        r = doc ? take_envelope(&parse, xmlDocGetRootElement(doc), err)
                : err_set(err, EINVAL, "its description is no well-formed XML");
    }
    xmlFreeDoc(doc);
    free(parse.files);
    return r;
}

void ovf_free(struct ovf *ovf)
{
    free(ovf->disks);
    free(ovf->items);
    *ovf = (struct ovf){ 0 };
}

struct json_t *ovf_info(const struct ovf *ovf)
{
    json_t *disks = json_array(), *items = json_array();
    uint64_t cpus = 0, memory = 0;
    for (unsigned i = 0; i < ovf->disk_count; i++) {
        const struct ovf_disk *d = &ovf->disks[i];
        json_array_append_new(disks, json_pack("{s:s, s:s, s:I, s:s, s:s}", "id", d->id, "file",
                                               d->file, "capacity", (json_int_t)d->capacity,
                                               "format", d->format, "compression",
                                               d->compression[0] ? d->compression : "none"));
    }
    for (unsigned i = 0; i < ovf->item_count; i++) {
        const struct ovf_item *item = &ovf->items[i];
        cpus += item->type == 3 ? item->quantity : 0;
        memory += item->type == 4 && item->quantity < 1ull << 60 ? item->quantity : 0;
        json_array_append_new(items,
                              json_pack("{s:i, s:s, s:s, s:s, s:I}", "type", (int)item->type,
                                        "name", item->name, "subtype", item->subtype, "connection",
                                        item->connection, "quantity", (json_int_t)item->quantity));
    }
    return json_pack("{s:s, s:s, s:I, s:I, s:o, s:o}", "name", ovf->name, "os", ovf->os, "cpus",
                     (json_int_t)cpus, "memory", (json_int_t)memory, "disks", disks, "hardware",
                     items);
}
