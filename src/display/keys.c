/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Keys by scan code, keysym, character and name. */
#include "display/keys.h"

#include "base/checked.h"

#include <linux/input-event-codes.h>
#include <string.h>
#include <strings.h>

/* ---- scan codes ---- */

/* Linux numbered its first keys after the scan codes of set 1; these are the others. */
static const struct {
    uint8_t scancode, key;
} others[] = {
    { 0x54, KEY_SYSRQ },     { 0x59, KEY_KPEQUAL },   { 0x70, KEY_KATAKANAHIRAGANA },
    { 0x73, KEY_RO },        { 0x79, KEY_HENKAN },    { 0x7b, KEY_MUHENKAN },
    { 0x7d, KEY_YEN },       { 0x7e, KEY_KPCOMMA },   { 0x9c, KEY_KPENTER },
    { 0x9d, KEY_RIGHTCTRL }, { 0xa0, KEY_MUTE },      { 0xae, KEY_VOLUMEDOWN },
    { 0xb0, KEY_VOLUMEUP },  { 0xb5, KEY_KPSLASH },   { 0xb7, KEY_SYSRQ },
    { 0xb8, KEY_RIGHTALT },  { 0xc6, KEY_PAUSE },     { 0xc7, KEY_HOME },
    { 0xc8, KEY_UP },        { 0xc9, KEY_PAGEUP },    { 0xcb, KEY_LEFT },
    { 0xcd, KEY_RIGHT },     { 0xcf, KEY_END },       { 0xd0, KEY_DOWN },
    { 0xd1, KEY_PAGEDOWN },  { 0xd2, KEY_INSERT },    { 0xd3, KEY_DELETE },
    { 0xdb, KEY_LEFTMETA },  { 0xdc, KEY_RIGHTMETA }, { 0xdd, KEY_COMPOSE },
    { 0xde, KEY_POWER },
};

unsigned key_of_scancode(unsigned scancode)
{
    if (scancode >= KEY_ESC && scancode <= KEY_KPDOT)
        return scancode;
    if (scancode >= KEY_102ND && scancode <= KEY_F12)
        return scancode;
    for (unsigned i = 0; i < ARRAY_LEN(others); i++)
        if (others[i].scancode == scancode)
            return others[i].key;
    return 0;
}

/* ---- characters ---- */

unsigned key_of_char(char c, bool *shift)
{
    *shift = false;
    switch (c) {
    case ' ': return KEY_SPACE;
    case '\n':
    case '\r': return KEY_ENTER;
    case '\t': return KEY_TAB;
    case '\b': return KEY_BACKSPACE;
    case '\033': return KEY_ESC;
    case 0: return 0;
    }
    enum layout_level level = LAYOUT_PLAIN;
    unsigned key = layout_key(&layout_us, (unsigned char)c, &level);
    *shift = level == LAYOUT_SHIFT;
    return key;
}

/* ---- names and keysyms ---- */

/* Keysyms as in X11/keysymdef.h; 0: none. A name may stand for several keysyms. */
static const struct {
    const char *name; /* NULL: has one above */
    uint32_t keysym;
    unsigned key;
} keys[] = {
    { "esc", 0xff1b, KEY_ESC },
    { "escape", 0, KEY_ESC },
    { "enter", 0xff0d, KEY_ENTER },
    { "ret", 0xff0a, KEY_ENTER },
    { "tab", 0xff09, KEY_TAB },
    { NULL, 0xfe20, KEY_TAB }, /* ISO_Left_Tab */
    { "backspace", 0xff08, KEY_BACKSPACE },
    { "space", 0, KEY_SPACE },
    { "minus", 0, KEY_MINUS },
    { "insert", 0xff63, KEY_INSERT },
    { "delete", 0xffff, KEY_DELETE },
    { "del", 0, KEY_DELETE },
    { "home", 0xff50, KEY_HOME },
    { "end", 0xff57, KEY_END },
    { "pageup", 0xff55, KEY_PAGEUP },
    { "pagedown", 0xff56, KEY_PAGEDOWN },
    { "left", 0xff51, KEY_LEFT },
    { "up", 0xff52, KEY_UP },
    { "right", 0xff53, KEY_RIGHT },
    { "down", 0xff54, KEY_DOWN },
    { "shift", 0xffe1, KEY_LEFTSHIFT },
    { "rightshift", 0xffe2, KEY_RIGHTSHIFT },
    { "ctrl", 0xffe3, KEY_LEFTCTRL },
    { "rightctrl", 0xffe4, KEY_RIGHTCTRL },
    { "alt", 0xffe9, KEY_LEFTALT },
    { NULL, 0xffe7, KEY_LEFTALT }, /* Meta_L */
    { "altgr", 0xffea, KEY_RIGHTALT },
    { NULL, 0xfe03, KEY_RIGHTALT }, /* ISO_Level3_Shift */
    { NULL, 0xffe8, KEY_RIGHTALT },
    { "meta", 0xffeb, KEY_LEFTMETA },
    { "rightmeta", 0xffec, KEY_RIGHTMETA },
    { "menu", 0xff67, KEY_COMPOSE },
    { "capslock", 0xffe5, KEY_CAPSLOCK },
    { "numlock", 0xff7f, KEY_NUMLOCK },
    { "scrolllock", 0xff14, KEY_SCROLLLOCK },
    { "pause", 0xff13, KEY_PAUSE },
    { NULL, 0xff6b, KEY_PAUSE },
    { "print", 0xff61, KEY_SYSRQ },
    { "sysrq", 0xff15, KEY_SYSRQ },
    { "f1", 0xffbe, KEY_F1 },
    { "f2", 0xffbf, KEY_F2 },
    { "f3", 0xffc0, KEY_F3 },
    { "f4", 0xffc1, KEY_F4 },
    { "f5", 0xffc2, KEY_F5 },
    { "f6", 0xffc3, KEY_F6 },
    { "f7", 0xffc4, KEY_F7 },
    { "f8", 0xffc5, KEY_F8 },
    { "f9", 0xffc6, KEY_F9 },
    { "f10", 0xffc7, KEY_F10 },
    { "f11", 0xffc8, KEY_F11 },
    { "f12", 0xffc9, KEY_F12 },
    { "kpenter", 0xff8d, KEY_KPENTER },
    { "kpplus", 0xffab, KEY_KPPLUS },
    { "kpminus", 0xffad, KEY_KPMINUS },
    { "kpmultiply", 0xffaa, KEY_KPASTERISK },
    { "kpdivide", 0xffaf, KEY_KPSLASH },
    { "kpdecimal", 0xffae, KEY_KPDOT },
    { NULL, 0xff9f, KEY_KPDOT },
    { "kp0", 0xffb0, KEY_KP0 },
    { "kp1", 0xffb1, KEY_KP1 },
    { "kp2", 0xffb2, KEY_KP2 },
    { "kp3", 0xffb3, KEY_KP3 },
    { "kp4", 0xffb4, KEY_KP4 },
    { "kp5", 0xffb5, KEY_KP5 },
    { "kp6", 0xffb6, KEY_KP6 },
    { "kp7", 0xffb7, KEY_KP7 },
    { "kp8", 0xffb8, KEY_KP8 },
    { "kp9", 0xffb9, KEY_KP9 },
    { NULL, 0xff9e, KEY_KP0 }, /* the keypad without Num Lock */
    { NULL, 0xff9c, KEY_KP1 },
    { NULL, 0xff99, KEY_KP2 },
    { NULL, 0xff9b, KEY_KP3 },
    { NULL, 0xff96, KEY_KP4 },
    { NULL, 0xff9d, KEY_KP5 },
    { NULL, 0xff98, KEY_KP6 },
    { NULL, 0xff95, KEY_KP7 },
    { NULL, 0xff97, KEY_KP8 },
    { NULL, 0xff9a, KEY_KP9 },
};

/* Accents that stand alone, and on a key that waits for the letter below. */
static const struct {
    uint32_t dead; /* keysym */
    char32_t combining, alone;
} accents[] = {
    { 0xfe50, 0x300, '`' }, { 0xfe51, 0x301, 0xb4 }, { 0xfe52, 0x302, '^' },
    { 0xfe53, 0x303, '~' }, { 0xfe57, 0x308, 0xa8 },
};

unsigned key_of_keysym(const struct layout *layout, uint32_t keysym)
{
    enum { UNICODE = 0x01000000, EURO = 0x20ac }; /* Latin-1 and the euro are their own keysyms */
    for (unsigned i = 0; keysym && i < ARRAY_LEN(keys); i++)
        if (keys[i].keysym == keysym)
            return keys[i].key;
    char32_t c = 0;
    if ((keysym >= ' ' && keysym <= 0xff) || keysym == EURO)
        c = keysym;
    else if (keysym >> 24 == UNICODE >> 24)
        c = keysym & 0xffffff;
    if (c == ' ')
        return KEY_SPACE;
    for (unsigned i = 0; i < ARRAY_LEN(accents); i++)
        if (accents[i].dead == keysym)
            c = accents[i].combining;
    unsigned key = layout_key(layout, c, NULL);
    for (unsigned i = 0; !key && i < ARRAY_LEN(accents); i++)
        if (accents[i].alone == c || accents[i].combining == c)
            key = layout_key(layout,
                             accents[i].alone == c ? accents[i].combining : accents[i].alone, NULL);
    return key;
}

unsigned key_of_name(const char *name, size_t len)
{
    bool shift;
    if (len == 1) {
        char c = name[0] >= 'A' && name[0] <= 'Z' ? (char)(name[0] + 32) : name[0];
        unsigned key = key_of_char(c, &shift);
        return shift ? 0 : key;
    }
    for (unsigned i = 0; i < ARRAY_LEN(keys); i++)
        if (keys[i].name && strlen(keys[i].name) == len && !strncasecmp(keys[i].name, name, len))
            return keys[i].key;
    return 0;
}
