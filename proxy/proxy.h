/* proxy: what the threads share. */
#ifndef PROXY_PROXY_H
#define PROXY_PROXY_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

#include "common/version.h"
#include "keymgr/ledger.h"
#include "proxy/limits.h"
#include "proxy/pause.h"
#include "proxy/registry.h"
#include "proxy/site.h"
#include "proxy/standbys.h"
#include "proxy/stats.h"
#include "proxy/timelines.h"
#include "proxy/upstreams.h"

struct worker;
struct authquery;
struct keymaker;
struct reload;
struct notify;
struct renewal;

struct proxy {
	const char *conf_file;
	pthread_mutex_t mutex; /* of site */
	struct site *site;
	struct ledger *ledger;
	struct timelines *timelines;
	struct registry registry;
	struct standbys *standbys;
	struct upstreams *upstreams;
	struct stats *stats;
	struct limits *limits;
	struct pause *pause;
	struct authquery *authquery;
	struct keymaker *keymaker;
	struct reload *reload;
	struct notify *notify;
	struct renewal *renewal;
	struct worker **workers;
	size_t nworkers;
	time_t started;
	/* What the console asks of the main thread. */
	void (*ask_stop)(struct proxy *);
	/* A worker's thread, at its end. */
	void (*worker_ended)(struct proxy *);
};

/* The site of now, one reference more. */
struct site *proxy_site(struct proxy *p);
/* Another one from now on; the caller's reference goes over. */
void proxy_set_site(struct proxy *p, struct site *site);

#endif
