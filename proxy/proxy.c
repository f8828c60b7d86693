#include "proxy/proxy.h"

struct site *
proxy_site(struct proxy *p)
{
	struct site *site;

	pthread_mutex_lock(&p->mutex);
	site = site_ref(p->site);
	pthread_mutex_unlock(&p->mutex);
	return site;
}

void
proxy_set_site(struct proxy *p, struct site *site)
{
	struct site *old;

	pthread_mutex_lock(&p->mutex);
	old = p->site;
	p->site = site;
	pthread_mutex_unlock(&p->mutex);
	site_unref(old);
}
