#include "ctl/proxy_address.h"

#include <stdio.h>
#include <string.h>

int
proxy_address_find(const struct settings *settings, struct proxy_address *p, struct err *err)
{
	/* a file without a [walcrypt] section has defaults only, which say nothing about a proxy elsewhere */
	bool told = settings != NULL && settings->auth_type != NULL;

	if (p->port == NULL && told) {
		snprintf(p->port_text, sizeof(p->port_text), "%d",
		         settings->listen_port != 0 ? settings->listen_port : SETTINGS_SOCKET_PORT);
		p->port = p->port_text;
	}
	if (p->host == NULL && told)
		p->host = settings->unix_socket_dir != NULL         ? settings->unix_socket_dir
		          : strcmp(settings->listen_addr, "*") == 0 ? "localhost"
		                                                    : settings->listen_addr;
	if (p->host != NULL && p->port != NULL)
		return 0;
	err_set(err, ERR_USAGE, "where the proxy listens is not known");
	return err_hint(err, "Give --config FILE, the proxy's configuration, or its host and port.");
}
