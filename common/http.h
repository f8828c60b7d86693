/*
 * http: one HTTPS request with its answer, over libcurl; blocks until its deadline.
 *
 * TLS 1.2 or newer, the server's certificate and name always checked, no redirects (they would carry the token to
 * another host), no proxy from the environment. Clear http only to a loopback address. What libcurl frees is wiped.
 */
#ifndef COMMON_HTTP_H
#define COMMON_HTTP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

/* Who is asked and how; strings are the caller's. */
struct http_peer {
	const char *host_port;            /* host[:port] */
	bool clear;                       /* http, refused (ERR_REFUSED) unless the host is 127.0.0.1, [::1] or localhost */
	const char *ca_file;              /* PEM; NULL: the system's */
	const char *cert_file, *key_file; /* a client certificate; NULL: none */
	int64_t deadline_ms;              /* by clock_now_ms() */
	const atomic_bool *stop;          /* NULL, or: give up soon after it has become true */
};

struct http_reply {
	long status; /* 200, 404 ...; never 0 after success */
	char *body;  /* the caller's memory, NUL-terminated here */
	size_t room; /* of body, with the NUL */
	size_t len;
	unsigned sent; /* how often the request went out: after a second time a POST may have been carried out twice */
};

/*
 * headers: NULL-terminated "Name: value"; body NULL: none (with POST and PUT an empty one). path begins with '/' and is
 * escaped already. A refused or lost connection and the answers 429, 500, 502, 503 and 504 are tried again with growing
 * pauses, at most five times and not beyond the deadline, when the last answer counts, without its body if a further
 * try was cut off; any other answer is the caller's to judge. ERR_UNREACHABLE with the reason when there is no answer;
 * ERR_FAILED when it does not fit into reply->body.
 */
int http_call(const struct http_peer *peer, const char *method, const char *path, const char *const *headers,
              const char *body, struct http_reply *reply, struct err *err);

/* Percent-encode all but unreserved characters and '/', into out. ERR_USAGE when it does not fit or a part is empty,
 * "." or "..". */
int http_escape_path(const char *path, char *out, size_t out_len, struct err *err);

#endif
