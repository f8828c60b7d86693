#include "ctl/page_look.h"

#include "walcrypt/load.h"
#include "walcrypt/page.h"

/* Where struct PageHeaderData keeps things (storage/bufpage.h). */
enum { AT_LOWER = 12, AT_UPPER = 14, AT_SPECIAL = 16, AT_SIZE_VERSION = 18, HEADER_LEN = 24, LAYOUT_VERSION = 4 };

enum page_looks
page_look(const uint8_t *page, uint32_t block, bool checksums)
{
	unsigned lower = load16(page + AT_LOWER), upper = load16(page + AT_UPPER), special = load16(page + AT_SPECIAL);

	/* a new page must be zero all over, and those were sorted out before: PageIsVerified */
	if (upper == 0 || load16(page + AT_SIZE_VERSION) != (PAGE_LEN | LAYOUT_VERSION) || lower < HEADER_LEN ||
	    lower > upper || upper > special || special > PAGE_LEN)
		return PAGE_LOOKS_NO_PAGE;
	return !checksums || page_checksum(page, block) == page_stored_checksum(page) ? PAGE_LOOKS_GOOD
	                                                                              : PAGE_LOOKS_DAMAGED;
}
