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
#include "proxy/registry.h"
#include "proxy/site.h"
#include "proxy/timelines.h"

struct worker;
struct authquery;

struct proxy {
	const char *conf_file;
	pthread_mutex_t mutex; /* of site */
	struct site *site;
	struct ledger *ledger;
	struct timelines *timelines;
	struct registry registry;
	struct limits *limits;
	struct authquery *authquery;
	struct worker **workers;
	size_t nworkers;
	time_t started;
	/* What the console asks of the main thread. */
	void (*ask_reload)(struct proxy *);
	void (*ask_stop)(struct proxy *);
	/* A worker's thread, at its end. */
	void (*worker_ended)(struct proxy *);
};

/* The site of now, one reference more. */
struct site *proxy_site(struct proxy *p);
/* Another one from now on; the caller's reference goes over. */
void proxy_set_site(struct proxy *p, struct site *site);

#endif
