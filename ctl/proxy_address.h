/* proxy_address: where the proxy of a configuration listens, as libpq's parameters. */
#ifndef CTL_PROXY_ADDRESS_H
#define CTL_PROXY_ADDRESS_H

#include "common/settings.h"

struct proxy_address {
	const char *host, *port; /* what is given already stays */
	char port_text[16];
};

/* Fill in what is not given: the Unix socket's folder if there is one, else the TCP listener, which on all addresses is
 * on localhost, too. settings may be NULL. */
int proxy_address_find(const struct settings *settings, struct proxy_address *p, struct err *err);

#endif
