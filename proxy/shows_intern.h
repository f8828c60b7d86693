/* shows_intern: the shows' parts: show_site.c (the proxy and its configuration), show_streams.c (what moves),
 * show_counts.c (what has been counted), show_keys.c. */
#ifndef PROXY_SHOWS_INTERN_H
#define PROXY_SHOWS_INTERN_H

#include "proxy/shows.h"

extern const struct show show_status, show_nodes, show_version, show_config;
extern const struct show show_sessions, show_standbys, show_upstream, show_stats, show_keys;

#endif
