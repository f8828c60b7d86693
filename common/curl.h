/*
 * curl: what the users of libcurl in this folder share: http (requests) and tlslink (a bare TLS connection). Nobody
 * else includes libcurl or this.
 *
 * TLS 1.2 or newer, the server's certificate and name always checked, no proxy from the environment. What libcurl frees
 * is wiped: its buffers hold tokens and keys.
 */
#ifndef COMMON_CURL_H
#define COMMON_CURL_H

#include <curl/curl.h>

#include "common/http.h"

#define CURL_CONNECT_MS 5000 /* longest time that one attempt to connect may take */

/* A handle for SCHEME://HOST[:PORT]PATH with all of the above set; why: CURL_ERROR_SIZE bytes that outlive it. NULL
 * with err. */
CURL *curl_open(const struct http_peer *peer, const char *scheme, const char *path, char *why, struct err *err);
/* Nothing beyond the deadline: set its times. */
void curl_limit(CURL *curl, int64_t left_ms);
/* What went wrong, in our words. Returns -1. */
int curl_explain(const struct http_peer *peer, CURLcode rc, const char *why, struct err *err);

#endif
