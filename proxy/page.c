#include "proxy/page.h"

/* The Makefile compiles in the root of the tree, and again when the page has changed. */
__asm__(".section .rodata\n"
        ".global page_html\n"
        ".global page_html_end\n"
        "page_html:\n"
        ".incbin \"proxy/page.html\"\n"
        "page_html_end:\n"
        ".byte 0\n"
        ".previous\n");
