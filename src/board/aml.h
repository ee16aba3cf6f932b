/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writes ACPI machine language (ACPI 6.4, chapters 19 and 20): just what our tables need.
 *
 * Everything is appended to a `struct buf`. A construct with a body is written as
 *     size_t at = aml_begin_device(b, "PCI0");  ...body...  aml_end(b, at);
 * Names have one to four characters, or a leading backslash and then so many ("\\_SB").
 */
#ifndef BOARD_AML_H
#define BOARD_AML_H

#include "base/text.h"

#include <stdbool.h>
#include <stdint.h>

void aml_end(struct buf *b, size_t at); /* a body of at most 1 MiB */
size_t aml_begin_scope(struct buf *b, const char *name);
size_t aml_begin_device(struct buf *b, const char *name);
size_t aml_begin_package(struct buf *b, uint8_t elements);

/* A method's body is bytecode that the caller writes with aml_bytes (chapter 20.2.5). */
size_t aml_begin_method(struct buf *b, const char *name, unsigned args);
size_t aml_begin_if(struct buf *b);
size_t aml_begin_else(struct buf *b);
void aml_bytes(struct buf *b, const void *bytes, size_t len);

void aml_integer(struct buf *b, uint64_t value);
void aml_string(struct buf *b, const char *text);
void aml_eisa_id(struct buf *b, const char *id); /* "PNP0A08" */
void aml_name(struct buf *b, const char *name);  /* Name (name, -- what is appended next -- ) */

/* Name (_CRS, ResourceTemplate () { ... }) */
size_t aml_begin_crs(struct buf *b);
void aml_end_crs(struct buf *b, size_t at);
void aml_io(struct buf *b, uint16_t port, uint8_t len);
void aml_irq(struct buf *b, unsigned irq); /* edge, active high, exclusive */
void aml_memory32_fixed(struct buf *b, uint32_t base, uint32_t len);
void aml_bus_window(struct buf *b, uint16_t first, uint16_t last);
void aml_io_window(struct buf *b, uint16_t first, uint16_t last);
void aml_memory32_window(struct buf *b, uint32_t first, uint32_t last);
void aml_memory64_window(struct buf *b, uint64_t first, uint64_t last);

#endif
