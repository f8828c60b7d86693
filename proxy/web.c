#include "proxy/web.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "proxy/metrics.h"
#include "proxy/page.h"
#include "proxy/webjson.h"
#include "walcrypt/base64.h"
#include "walcrypt/digest.h"

/* Bytes of an answer: a name's history has some 20 KiB. */
#define ANSWER_MAX (32u << 20)
#define HASH_TEXT_LEN (BASE64_LEN(32) + 1)

/* A connection, until libmicrohttpd closes it. */
struct guest {
	int fd; /* -1: the place is free */
	time_t since;
};

struct web {
	struct proxy *proxy;
	struct MHD_Daemon *daemon;
	char policy[512];
	pthread_mutex_t mutex; /* of guests */
	struct guest guests[WEB_CONNECTIONS];
};

/* Answers. */

/* Takes body, malloc'ed (NULL: out of memory) or, lent, the program's own. */
static enum MHD_Result
answer(struct web *w, struct MHD_Connection *c, unsigned status, const char *type, void *body, size_t len, bool lent)
{
	struct MHD_Response *r;
	enum MHD_Result rc;

	if (body == NULL)
		return MHD_NO;
	r = MHD_create_response_from_buffer(len, body, lent ? MHD_RESPMEM_PERSISTENT : MHD_RESPMEM_MUST_FREE);
	if (r == NULL) {
		if (!lent)
			free(body);
		return MHD_NO;
	}
	/* one request each: a connection's time is bounded */
	MHD_add_response_header(r, "Connection", "close");
	MHD_add_response_header(r, "Content-Type", type);
	MHD_add_response_header(r, "Cache-Control", "no-store");
	MHD_add_response_header(r, "Content-Security-Policy", w->policy);
	MHD_add_response_header(r, "Cross-Origin-Resource-Policy", "same-origin");
	MHD_add_response_header(r, "X-Content-Type-Options", "nosniff");
	MHD_add_response_header(r, "Referrer-Policy", "no-referrer");
	if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
		MHD_add_response_header(r, "Allow", "GET, HEAD");
	rc = MHD_queue_response(c, status, r);
	MHD_destroy_response(r);
	return rc;
}

static enum MHD_Result
say(struct web *w, struct MHD_Connection *c, unsigned status, const char *text)
{
	return answer(w, c, status, "text/plain; charset=utf-8", (void *)text, strlen(text), true);
}

static enum MHD_Result
failed(struct web *w, struct MHD_Connection *c, const struct err *err)
{
	log_err(LOG_WARNING, err, "could not answer an HTTP request");
	return say(w, c, MHD_HTTP_INTERNAL_SERVER_ERROR, "out of memory\n");
}

/* Takes text. */
static enum MHD_Result
answer_json(struct web *w, struct MHD_Connection *c, char *text, const struct err *err)
{
	return text == NULL ? failed(w, c, err) : answer(w, c, MHD_HTTP_OK, "application/json", text, strlen(text), false);
}

static enum MHD_Result
get_metrics(struct web *w, struct MHD_Connection *c, const struct site *site)
{
	struct buffer out;
	struct err err = {0};
	void *body = NULL;
	size_t len = 0;

	buffer_init(&out, ANSWER_MAX);
	if (metrics_write(&out, w->proxy, site, &err) == 0) {
		len = buffer_len(&out);
		if ((body = malloc(len)) != NULL)
			memcpy(body, buffer_data(&out), len);
	}
	buffer_free(&out);
	if (err.class != ERR_NONE)
		return failed(w, c, &err);
	return answer(w, c, MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8", body, len, false);
}

/* Requests. */

/* host[:port]: an address, localhost or a name that the configuration lists? */
static bool
host_is_ours(const struct settings *settings, const char *host)
{
	char name[256];
	const char *end = *host == '[' ? strchr(host, ']') : strchr(host, ':');
	size_t len = end == NULL ? strlen(host) : (size_t)(end - host);
	uint8_t addr[16];

	if (*host == '[') {
		host++;
		len = end == NULL ? 0 : len - 1;
	}
	if (len == 0 || len >= sizeof(name))
		return false;
	memcpy(name, host, len);
	name[len] = '\0';
	if (inet_pton(AF_INET, name, addr) == 1 || inet_pton(AF_INET6, name, addr) == 1 ||
	    strcasecmp(name, "localhost") == 0)
		return true;
	for (char *const *p = settings->http_hosts; p != NULL && *p != NULL; p++)
		if (strcasecmp(*p, name) == 0)
			return true;
	return false;
}

static enum MHD_Result
route(struct web *w, struct MHD_Connection *c, const char *url, const struct site *site)
{
	struct err err = {0};

	if (strcmp(url, "/") == 0)
		return answer(w, c, MHD_HTTP_OK, "text/html; charset=utf-8", (void *)page_html, page_len(), true);
	if (strcmp(url, "/metrics") == 0)
		return get_metrics(w, c, site);
	if (strcmp(url, "/status.json") == 0)
		return answer_json(w, c, webjson_status(w->proxy, site, &err), &err);
	if (strcmp(url, "/history.json") == 0)
		return answer_json(w, c, webjson_history(w->proxy, &err), &err);
	return say(w, c, MHD_HTTP_NOT_FOUND, "there are /, /metrics, /status.json and /history.json\n");
}

static enum MHD_Result
on_request(void *arg, struct MHD_Connection *c, const char *url, const char *method, const char *version,
           const char *body, size_t *body_len, void **state)
{
	struct web *w = arg;
	const char *host = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Host");
	struct site *site;
	enum MHD_Result rc;

	(void)version;
	(void)body;
	(void)body_len;
	(void)state;
	if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0)
		return say(w, c, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET and HEAD: there is nothing to change here\n");
	site = proxy_site(w->proxy);
	/* a client of HTTP/1.0 may send none; a browser always does */
	if (host != NULL && !host_is_ours(site->settings, host))
		rc = say(w, c, MHD_HTTP_FORBIDDEN, "this name is not known here: list it in http_hosts, or ask by address\n");
	else
		rc = route(w, c, url, site);
	site_unref(site);
	return rc;
}

/* Connections. */

static enum MHD_Result
on_accept(void *arg, const struct sockaddr *addr, socklen_t len)
{
	struct web *w = arg;
	struct site *site = proxy_site(w->proxy);
	const struct settings *set = site->settings;
	bool in = set->nhttp_from == 0 && address_is_loopback(addr);
	char text[ADDRESS_TEXT_LEN];

	(void)len;
	for (size_t i = 0; i < set->nhttp_from; i++)
		in = in || address_range_has(&set->http_from[i], addr);
	site_unref(site);
	if (!in) {
		address_text(addr, text, sizeof(text));
		log_info("an HTTP connection from %s is refused: http_allow_addr does not list it", text);
	}
	return in ? MHD_YES : MHD_NO;
}

static void
on_connection(void *arg, struct MHD_Connection *c, void **context, enum MHD_ConnectionNotificationCode what)
{
	struct web *w = arg;
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);

	(void)context;
	if (info == NULL)
		return;
	pthread_mutex_lock(&w->mutex);
	for (size_t i = 0; i < WEB_CONNECTIONS; i++) {
		struct guest *g = &w->guests[i];

		if (what == MHD_CONNECTION_NOTIFY_STARTED ? g->fd >= 0 : g->fd != info->connect_fd)
			continue;
		g->fd = what == MHD_CONNECTION_NOTIFY_STARTED ? info->connect_fd : -1;
		g->since = clock_now_s();
		break;
	}
	pthread_mutex_unlock(&w->mutex);
}

/* libmicrohttpd's own limit is one of silence: who sends a byte now and then would stay. */
void
web_tick(struct web *w)
{
	time_t now = clock_now_s();

	pthread_mutex_lock(&w->mutex);
	for (size_t i = 0; i < WEB_CONNECTIONS; i++)
		if (w->guests[i].fd >= 0 && now - w->guests[i].since > WEB_SECONDS)
			(void)shutdown(w->guests[i].fd, SHUT_RDWR);
	pthread_mutex_unlock(&w->mutex);
}

/* Start. */

/* What stands between two words of the page, hashed as a Content-Security-Policy names it. */
static int
page_hash(const char *from, const char *to, char out[static HASH_TEXT_LEN], struct err *err)
{
	const char *begin = memmem(page_html, page_len(), from, strlen(from)), *end;
	uint8_t hash[DIGEST_MAX_LEN];
	struct digest *d;
	int rc = -1;

	if (begin != NULL)
		begin += strlen(from);
	if (begin == NULL || (end = memmem(begin, (size_t)(page_html_end - begin), to, strlen(to))) == NULL)
		return err_set(err, ERR_FAILED, "the page has no %s", from);
	if ((d = digest_new(DIGEST_SHA256, err)) != NULL && digest_update(d, begin, (size_t)(end - begin), err) == 0)
		rc = digest_final(d, hash, err);
	digest_free(d);
	if (rc < 0)
		return -1;
	base64_encode(hash, 32, out);
	return 0;
}

/* Nothing but what is in the page itself runs or is loaded, whatever a name in its data may look like. */
static int
make_policy(struct web *w, struct err *err)
{
	char style[HASH_TEXT_LEN], script[HASH_TEXT_LEN];

	if (page_hash("<style>", "</style>", style, err) != 0 || page_hash("<script>", "</script>", script, err) != 0)
		return -1;
	snprintf(w->policy, sizeof(w->policy),
	         "default-src 'none'; style-src 'sha256-%s'; script-src 'sha256-%s'; connect-src 'self'; "
	         "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
	         style, script);
	return 0;
}

static int
listen_on(const struct settings *settings, struct err *err)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list = NULL;
	char port[16];
	int fd, rc, on = 1;

	snprintf(port, sizeof(port), "%d", settings->http_port);
	if ((rc = getaddrinfo(settings->http_addr, port, &hints, &list)) != 0)
		return err_set(err, ERR_USAGE, "could not resolve http_listen \"%s\": %s", settings->http_listen,
		               gai_strerror(rc));
	fd = socket(list->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd >= 0)
		(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (fd < 0 || bind(fd, list->ai_addr, list->ai_addrlen) != 0 || listen(fd, 2 * WEB_CONNECTIONS) != 0) {
		err_os(err, errno, "could not listen on http_listen %s", settings->http_listen);
		if (fd >= 0)
			close(fd);
		fd = -1;
	}
	freeaddrinfo(list);
	return fd;
}

static int
serve(struct web *w, int fd, struct err *err)
{
	sigset_t all, before;

	/* signals are the main thread's */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	w->daemon = MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_AUTO, 0, on_accept, w, on_request, w,
	                             MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, (unsigned)WEB_CONNECTIONS,
	                             MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)WEB_SECONDS,
	                             MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)(16 << 10), MHD_OPTION_STRICT_FOR_CLIENT,
	                             1, MHD_OPTION_NOTIFY_CONNECTION, on_connection, w, MHD_OPTION_END);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return w->daemon == NULL ? err_set(err, ERR_FAILED, "could not start the HTTP server") : 0;
}

struct web *
web_new(struct proxy *p, struct err *err)
{
	struct web *w = calloc(1, sizeof(*w));
	int fd = -1;

	if (w == NULL) {
		err_nomem(err);
		return NULL;
	}
	w->proxy = p;
	pthread_mutex_init(&w->mutex, NULL);
	for (size_t i = 0; i < WEB_CONNECTIONS; i++)
		w->guests[i].fd = -1;
	if (make_policy(w, err) != 0 || (fd = listen_on(p->site->settings, err)) < 0 || serve(w, fd, err) != 0) {
		if (fd >= 0)
			close(fd);
		web_free(w);
		return NULL;
	}
	return w;
}

void
web_free(struct web *w)
{
	if (w == NULL)
		return;
	if (w->daemon != NULL)
		MHD_stop_daemon(w->daemon);
	pthread_mutex_destroy(&w->mutex);
	free(w);
}
