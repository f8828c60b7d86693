#include "proxy/metrics.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "proxy/keylist.h"

#define POSTGRES_EPOCH_S 946684800 /* 2000-01-01 as seconds since 1970 */

static void __attribute__((format(printf, 2, 3))) put(struct buffer *out, const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	buffer_put_text(out, text);
}

static void
head(struct buffer *out, const char *name, const char *type, const char *help)
{
	put(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* A label's value: names of clients are printable ASCII already. */
static const char *
quoted(char *out, size_t len, const char *text)
{
	size_t n = 0;

	for (; *text != '\0' && n + 2 < len; text++) {
		if (*text == '"' || *text == '\\')
			out[n++] = '\\';
		out[n++] = *text;
	}
	out[n] = '\0';
	return out;
}

static void
put_proxy(struct buffer *out, const struct proxy *p, const struct site *site)
{
	time_t expiry = site->tls != NULL ? tls_expiry(site->tls) : 0;
	long pages = 0;
	struct rusage ru;
	FILE *f = fopen("/proc/self/statm", "re");

	if (f == NULL || fscanf(f, "%*d %ld", &pages) != 1)
		pages = 0;
	if (f != NULL)
		fclose(f);
	getrusage(RUSAGE_SELF, &ru);
	head(out, "walcrypt_info", "gauge", "The program's version.");
	put(out, "walcrypt_info{version=\"%s\"} 1\n", WALCRYPT_VERSION);
	head(out, "process_start_time_seconds", "gauge", "When the proxy was started, in seconds since 1970.");
	put(out, "process_start_time_seconds %lld\n", (long long)p->started);
	head(out, "process_cpu_seconds_total", "counter", "Processor time that the proxy has used.");
	put(out, "process_cpu_seconds_total %.6f\n",
	    (double)(ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) + (double)(ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) / 1e6);
	if (pages > 0) {
		head(out, "process_resident_memory_bytes", "gauge", "Resident memory.");
		put(out, "process_resident_memory_bytes %lld\n", (long long)pages * sysconf(_SC_PAGESIZE));
	}
	if (expiry != 0) {
		head(out, "walcrypt_certificate_expiry_timestamp_seconds", "gauge",
		     "When the certificate that clients are shown ends, in seconds since 1970.");
		put(out, "walcrypt_certificate_expiry_timestamp_seconds %lld\n", (long long)expiry);
	}
}

/* One metric of all nodes; what: where in struct node_stats the number is. */
static void
put_counter(struct buffer *out, struct proxy *p, const char *name, const char *help, size_t what)
{
	head(out, name, "counter", help);
	for (const struct node_stats *n = stats_next(p->stats, NULL); n != NULL; n = stats_next(p->stats, n))
		put(out, "%s{node=\"%s\"} %" PRIu64 "\n", name, n->node,
		    (uint64_t) * (const _Atomic uint64_t *)((const char *)n + what));
}

static void
put_counters(struct buffer *out, struct proxy *p)
{
	put_counter(
	    out, p, "walcrypt_connections_total",
	    "Connections that said who they are, of a node or profile; without a name: of the console and of others.",
	    offsetof(struct node_stats, connections));
	put_counter(out, p, "walcrypt_streams_total", "Streams of WAL that have begun.",
	            offsetof(struct node_stats, streams));
	put_counter(out, p, "walcrypt_received_bytes_total", "Bytes of WAL and backups received from upstreams.",
	            offsetof(struct node_stats, received));
	put_counter(out, p, "walcrypt_sent_bytes_total", "Bytes sent to clients.", offsetof(struct node_stats, sent));
	put_counter(out, p, "walcrypt_base_backups_total", "Base backups that came to their good end.",
	            offsetof(struct node_stats, backups));
	put_counter(out, p, "walcrypt_base_backups_failed_total", "Base backups that failed or were given up.",
	            offsetof(struct node_stats, backups_failed));
	head(out, "walcrypt_base_backup_last_success_timestamp_seconds", "gauge",
	     "When the last base backup came to its good end, in seconds since 1970.");
	for (const struct node_stats *n = stats_next(p->stats, NULL); n != NULL; n = stats_next(p->stats, n))
		if (n->last_backup != 0)
			put(out, "walcrypt_base_backup_last_success_timestamp_seconds{node=\"%s\"} %" PRId64 "\n", n->node,
			    (int64_t)n->last_backup);
	head(out, "walcrypt_errors_total", "counter", "Errors that sessions were told, by the class of the error.");
	for (const struct node_stats *n = stats_next(p->stats, NULL); n != NULL; n = stats_next(p->stats, n))
		for (int class = ERR_FAILED; class < STATS_CLASSES; class ++)
			put(out, "walcrypt_errors_total{node=\"%s\",class=\"%s\"} %" PRIu64 "\n", n->node,
			    stats_class_name((enum err_class) class), (uint64_t)n->errors[class]);
	head(out, "walcrypt_failed_logins_total", "counter", "Authentications that failed.");
	put(out, "walcrypt_failed_logins_total %" PRIu64 "\n", (uint64_t)*stats_failed_logins(p->stats));
}

/* Of the cards only these three are needed. */
struct seat {
	char node[64];
	const char *state;
	unsigned id;
	uint64_t backup_done, backup_size;
	bool backup;
};

static struct seat *
seats(struct registry *r, size_t *n, struct err *err)
{
	struct seat *list;

	*n = 0;
	registry_lock(r);
	if ((list = calloc(r->n + 1, sizeof(*list))) == NULL)
		err_nomem(err);
	for (const struct card *c = r->first; list != NULL && c != NULL; c = c->next) {
		struct seat *s = &list[(*n)++];

		/* until it has authenticated its name is whatever a stranger says: no label */
		if (c->admitted)
			memcpy(s->node, c->node, sizeof(s->node));
		s->state = c->state;
		s->id = c->id;
		s->backup = c->backup_since != 0;
		s->backup_done = c->backup_done;
		s->backup_size = c->backup_size;
	}
	registry_unlock(r);
	return list;
}

static int
by_seat(const void *a, const void *b)
{
	const struct seat *x = a, *y = b;
	int c = strcmp(x->node, y->node);

	return c != 0 ? c : strcmp(x->state, y->state);
}

static int
put_sessions(struct buffer *out, struct proxy *p, struct err *err)
{
	char node[160];
	size_t n;
	struct seat *list = seats(&p->registry, &n, err);

	if (list == NULL)
		return -1;
	qsort(list, n, sizeof(*list), by_seat);
	head(out, "walcrypt_sessions", "gauge",
	     "Sessions of a node or profile in a state; without a name: of the console, and not authenticated.");
	for (size_t i = 0, same; i < n; i += same) {
		for (same = 1; i + same < n && by_seat(&list[i], &list[i + same]) == 0;)
			same++;
		put(out, "walcrypt_sessions{node=\"%s\",state=\"%s\"} %zu\n", quoted(node, sizeof(node), list[i].node),
		    list[i].state, same);
	}
	head(out, "walcrypt_base_backup_bytes", "gauge", "Bytes of the base backup under way that have come.");
	for (size_t i = 0; i < n; i++)
		if (list[i].backup)
			put(out, "walcrypt_base_backup_bytes{node=\"%s\",session=\"%u\"} %" PRIu64 "\n",
			    quoted(node, sizeof(node), list[i].node), list[i].id, list[i].backup_done);
	head(out, "walcrypt_base_backup_size_bytes", "gauge",
	     "Bytes that the upstream has estimated for it, if the client has asked for the progress.");
	for (size_t i = 0; i < n; i++)
		if (list[i].backup && list[i].backup_size != 0)
			put(out, "walcrypt_base_backup_size_bytes{node=\"%s\",session=\"%u\"} %" PRIu64 "\n",
			    quoted(node, sizeof(node), list[i].node), list[i].id, list[i].backup_size);
	free(list);
	return 0;
}

/* The list has the latest stream of a name first. */
static bool
latest(const struct standby_view *list, size_t i)
{
	return i == 0 || strcmp(list[i].who.node, list[i - 1].who.node) != 0 ||
	       strcmp(list[i].who.application, list[i - 1].who.application) != 0;
}

/* name{node="blue",application_name="blue" without the closing brace. */
static void
put_standby(struct buffer *out, const char *name, const struct standby_view *v)
{
	char node[160], application[160];

	put(out, "%s{node=\"%s\",application_name=\"%s\"", name, quoted(node, sizeof(node), v->who.node),
	    quoted(application, sizeof(application), v->who.application));
}

static void
put_lsns(struct buffer *out, const struct standby_view *v)
{
	const struct {
		const char *name;
		uint64_t lsn;
	} lsns[] = {{"upstream", v->at.upstream},
	            {"received", v->at.received},
	            {"sent", v->at.sent},
	            {"write", v->at.write},
	            {"flush", v->at.flush},
	            {"replay", v->at.apply},
	            {"last_record", v->at.record},
	            {"shutdown_checkpoint", v->at.shutdown_checkpoint},
	            {"timeline_end", v->at.timeline_end}};

	for (size_t i = 0; i < sizeof(lsns) / sizeof(lsns[0]); i++)
		if (lsns[i].lsn != 0) {
			put_standby(out, "walcrypt_standby_lsn", v);
			put(out, ",position=\"%s\"} %" PRIu64 "\n", lsns[i].name, lsns[i].lsn);
		}
}

static void
put_lags(struct buffer *out, const struct standby_view *list, size_t n)
{
	static const char *const positions[STANDBY_POSITIONS] = {"write", "flush", "replay"};

	head(out, "walcrypt_standby_lag_bytes", "gauge", "WAL of the upstream that the client has not taken.");
	for (size_t i = 0; i < n; i++)
		for (int k = 0; k < STANDBY_POSITIONS; k++)
			if (latest(list, i) && list[i].lag_bytes[k] >= 0) {
				put_standby(out, "walcrypt_standby_lag_bytes", &list[i]);
				put(out, ",position=\"%s\"} %" PRId64 "\n", positions[k], list[i].lag_bytes[k]);
			}
	head(out, "walcrypt_standby_lag_seconds", "gauge", "How long there has been WAL that the client has not taken.");
	for (size_t i = 0; i < n; i++)
		for (int k = 0; k < STANDBY_POSITIONS; k++)
			if (latest(list, i) && list[i].lag_s[k] >= 0) {
				put_standby(out, "walcrypt_standby_lag_seconds", &list[i]);
				put(out, ",position=\"%s\"} %.3f\n", positions[k], list[i].lag_s[k]);
			}
}

static int
put_standbys(struct buffer *out, struct proxy *p, struct err *err)
{
	size_t n;
	struct standby_view *list = standbys_list(p->standbys, &n, err);

	if (list == NULL)
		return -1;
	head(out, "walcrypt_standby_streaming", "gauge", "1 while WAL is streamed to it, 0 when the stream has ended.");
	for (size_t i = 0; i < n; i++)
		if (latest(list, i)) {
			put_standby(out, "walcrypt_standby_streaming", &list[i]);
			put(out, "} %d\n", list[i].end == STANDBY_STREAMS);
		}
	head(out, "walcrypt_standby_stream_end", "gauge", "How its last stream ended (SHOW STANDBYS).");
	for (size_t i = 0; i < n; i++)
		if (latest(list, i) && list[i].end != STANDBY_STREAMS) {
			put_standby(out, "walcrypt_standby_stream_end", &list[i]);
			put(out, ",end=\"%s\"} 1\n", standby_end_name(list[i].end));
		}
	put_lags(out, list, n);
	head(out, "walcrypt_standby_timeline", "gauge", "The timeline that is streamed.");
	for (size_t i = 0; i < n; i++)
		if (latest(list, i)) {
			put_standby(out, "walcrypt_standby_timeline", &list[i]);
			put(out, "} %" PRIu32 "\n", list[i].who.tli);
		}
	head(out, "walcrypt_standby_lsn", "gauge", "Positions in the WAL, in bytes.");
	for (size_t i = 0; i < n; i++)
		if (latest(list, i))
			put_lsns(out, &list[i]);
	head(out, "walcrypt_standby_last_commit_timestamp_seconds", "gauge",
	     "Time of the last commit that was streamed to it, in seconds since 1970.");
	for (size_t i = 0; i < n; i++)
		if (latest(list, i) && list[i].at.commit_time != 0) {
			put_standby(out, "walcrypt_standby_last_commit_timestamp_seconds", &list[i]);
			put(out, "} %.3f\n", (double)list[i].at.commit_time / 1e6 + POSTGRES_EPOCH_S);
		}
	free(list);
	return 0;
}

static void
put_upstreams(struct buffer *out, struct proxy *p, const struct site *site)
{
	static const struct {
		const char *name, *help;
	} metrics[] = {{"walcrypt_upstream_up", "1 when the last one to connect could use it, 0 when not."},
	               {"walcrypt_upstream_primary", "1 when it said that it is a primary, 0 a standby."},
	               {"walcrypt_upstream_timeline", "The timeline that it said it is on."}};

	for (int k = 0; k < 3; k++) {
		head(out, metrics[k].name, "gauge", metrics[k].help);
		for (size_t i = 0; i < site->settings->nnodes; i++) {
			struct upstream_view v;

			upstreams_look(p->upstreams, site->settings->nodes[i].name, &v);
			if (site->settings->nodes[i].conninfo == NULL || (k > 0 ? v.seen == 0 : v.seen == 0 && v.failed == 0))
				continue;
			put(out, "%s{node=\"%s\"} %" PRIu32 "\n", metrics[k].name, v.node,
			    k == 0   ? !v.useless
			    : k == 1 ? !v.facts.standby
			             : v.facts.tli);
		}
	}
}

static int
put_keys(struct buffer *out, struct proxy *p, const struct site *site, struct err *err)
{
	size_t n;
	struct keylist_key *list = keylist_make(site, p->timelines, &n, err);
	time_t now = time(NULL);

	if (list == NULL)
		return -1;
	head(out, "walcrypt_key_info", "gauge", "The keys that there are, by their ids (SHOW KEYS).");
	for (size_t i = 0; i < n; i++)
		put(out, "walcrypt_key_info{keyset=\"%s\",key=\"%s\",epoch=\"%" PRIu32 "\",key_id=\"%s\",state=\"%s\"} 1\n",
		    list[i].keyset, list[i].kind, list[i].epoch, list[i].id, list[i].state);
	head(out, "walcrypt_key_age_seconds", "gauge", "How long ago the key was made.");
	for (size_t i = 0; i < n; i++)
		if (list[i].created >= 0)
			put(out, "walcrypt_key_age_seconds{keyset=\"%s\",key=\"%s\",epoch=\"%" PRIu32 "\",key_id=\"%s\"} %lld\n",
			    list[i].keyset, list[i].kind, list[i].epoch, list[i].id, (long long)(now - list[i].created));
	free(list);
	return 0;
}

int
metrics_write(struct buffer *out, struct proxy *p, const struct site *site, struct err *err)
{
	put_proxy(out, p, site);
	put_counters(out, p);
	put_upstreams(out, p, site);
	if (put_sessions(out, p, err) != 0 || put_standbys(out, p, err) != 0 || put_keys(out, p, site, err) != 0)
		return -1;
	return buffer_check(out, err);
}
