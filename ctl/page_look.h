/* page_look: is a clear page what the server writes? */
#ifndef CTL_PAGE_LOOK_H
#define CTL_PAGE_LOOK_H

#include <stdbool.h>
#include <stdint.h>

enum page_looks { PAGE_LOOKS_GOOD, PAGE_LOOKS_NO_PAGE, PAGE_LOOKS_DAMAGED };

/*
 * page[8192], not all zero; block from the start of the fork. NO_PAGE: its header makes no sense (another key, most
 * likely). DAMAGED: the header is one, but the checksum does not fit. Without checksums a good page is plausible and no
 * more.
 */
enum page_looks page_look(const uint8_t *page, uint32_t block, bool checksums);

#endif
