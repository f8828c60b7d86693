/* page_look: is a clear page what the server writes? */
#ifndef CTL_PAGE_LOOK_H
#define CTL_PAGE_LOOK_H

#include <stdbool.h>
#include <stdint.h>

/* page[8192], not all zero; block from the start of the fork. With checksums they tell; else the header's fields must
 * make sense, which is plausible and no proof. */
bool page_looks_right(const uint8_t *page, uint32_t block, bool checksums);

#endif
