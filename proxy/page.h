/* page: proxy/page.html, as the Makefile has put it into the program. */
#ifndef PROXY_PAGE_H
#define PROXY_PAGE_H

#include <stddef.h>

extern const char page_html[], page_html_end[];

static inline size_t
page_len(void)
{
	return (size_t)(page_html_end - page_html);
}

#endif
