#include "common/http.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "common/wiping.h"

#define TRIES_MAX 5
#define CONNECT_MS 5000
#define PAUSE_MS 200 /* before the second try; doubles */

int64_t
http_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* libcurl's buffers hold tokens and keys: what it frees is wiped. */
static int
curl_ready(struct err *err)
{
	static bool ready;

	if (!ready && curl_global_init_mem(CURL_GLOBAL_DEFAULT, malloc, wiping_free, wiping_realloc, strdup, calloc) != 0)
		return err_set(err, ERR_FAILED, "could not set up libcurl");
	ready = true;
	return 0;
}

static size_t
take(char *data, size_t size, size_t n, void *arg)
{
	struct http_reply *reply = arg;
	size_t len = size * n;

	if (len >= reply->room - reply->len)
		return 0; /* CURLE_WRITE_ERROR */
	memcpy(reply->body + reply->len, data, len);
	reply->len += len;
	reply->body[reply->len] = '\0';
	return len;
}

static bool
is_loopback(const char *host_port)
{
	static const char *const names[] = {"127.0.0.1", "[::1]", "localhost"};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		size_t len = strlen(names[i]);

		if (strncasecmp(host_port, names[i], len) == 0 && (host_port[len] == '\0' || host_port[len] == ':'))
			return true;
	}
	return false;
}

static bool
is_worth_another(CURLcode rc, long status)
{
	switch (rc) {
	case CURLE_OK:
		return status == 429 || status == 500 || status == 502 || status == 503 || status == 504;
	case CURLE_COULDNT_RESOLVE_HOST:
	case CURLE_COULDNT_CONNECT:
	case CURLE_OPERATION_TIMEDOUT:
	case CURLE_SEND_ERROR:
	case CURLE_RECV_ERROR:
	case CURLE_GOT_NOTHING:
	case CURLE_PARTIAL_FILE:
		return true;
	default:
		return false;
	}
}

static int
no_answer(const struct http_peer *peer, CURLcode rc, const char *why, const struct http_reply *reply, struct err *err)
{
	if (why[0] == '\0')
		why = curl_easy_strerror(rc);
	switch (rc) {
	case CURLE_WRITE_ERROR:
		return err_set(err, ERR_FAILED, "the answer of \"%s\" is longer than %zu bytes", peer->host_port,
		               reply->room - 1);
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_ISSUER_ERROR:
		err_set(err, ERR_UNREACHABLE, "the certificate of \"%s\" is not trusted", peer->host_port);
		err_detail(err, "%s", why);
		return err_hint(err, "ca_file names the certificate of the authority that signed it; the host must be the one "
		                     "that it was made for.");
	case CURLE_SSL_CACERT_BADFILE:
		err_set(err, ERR_USAGE, "could not read the certificate authority's file \"%s\"", peer->ca_file);
		return err_detail(err, "%s", why);
	case CURLE_SSL_CERTPROBLEM:
		err_set(err, ERR_USAGE, "could not use the client certificate \"%s\"", peer->cert_file);
		return err_detail(err, "%s", why);
	case CURLE_OPERATION_TIMEDOUT:
		return err_set(err, ERR_UNREACHABLE, "\"%s\" did not answer in time", peer->host_port);
	default:
		err_set(err, ERR_UNREACHABLE, "could not reach \"%s\"", peer->host_port);
		return err_detail(err, "%s", why);
	}
}

static CURL *
prepare(const struct http_peer *peer, const char *method, const char *path, struct curl_slist *headers,
        const char *body, struct http_reply *reply, char *why, struct err *err)
{
	CURL *curl = curl_easy_init();
	size_t room = strlen(peer->host_port) + strlen(path) + 16;
	char *url = malloc(room);
	long failed;

	if (curl == NULL || url == NULL) {
		curl_easy_cleanup(curl);
		free(url);
		err_nomem(err);
		return NULL;
	}
	snprintf(url, room, "%s://%s%s", peer->clear ? "http" : "https", peer->host_port, path);
	/* the return values are summed up: each is 0 unless memory ran out or the library is another one */
	failed = (long)curl_easy_setopt(curl, CURLOPT_URL, url);
	failed |= (long)curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, peer->clear ? "http" : "https");
	failed |= (long)curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
	failed |= (long)curl_easy_setopt(curl, CURLOPT_PROXY, "");
	failed |= (long)curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
	failed |= (long)curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	failed |= (long)curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, why);
	failed |= (long)curl_easy_setopt(curl, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	if (peer->ca_file != NULL) {
		failed |= (long)curl_easy_setopt(curl, CURLOPT_CAINFO, peer->ca_file);
		failed |= (long)curl_easy_setopt(curl, CURLOPT_CAPATH, NULL);
	}
	if (peer->cert_file != NULL) {
		failed |= (long)curl_easy_setopt(curl, CURLOPT_SSLCERT, peer->cert_file);
		failed |=
		    (long)curl_easy_setopt(curl, CURLOPT_SSLKEY, peer->key_file != NULL ? peer->key_file : peer->cert_file);
	}
	failed |= (long)curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
	if (strcmp(method, "GET") != 0) {
		failed |= (long)curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body != NULL ? body : "");
		failed |= (long)curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
	}
	failed |= (long)curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take);
	failed |= (long)curl_easy_setopt(curl, CURLOPT_WRITEDATA, reply);
	free(url);
	if (failed == 0)
		return curl;
	curl_easy_cleanup(curl);
	err_set(err, ERR_FAILED, "could not set up libcurl");
	return NULL;
}

/* One try, by the deadline. */
static CURLcode
try(CURL *curl, const struct http_peer *peer, struct http_reply *reply, char *why)
{
	int64_t left = peer->deadline_ms - http_now_ms();
	CURLcode rc;

	why[0] = '\0';
	reply->len = 0;
	reply->body[0] = '\0';
	if (left <= 0)
		return CURLE_OPERATION_TIMEDOUT;
	curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)left);
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)(left < CONNECT_MS ? left : CONNECT_MS));
	reply->sent++;
	rc = curl_easy_perform(curl);
	curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &reply->status);
	return rc;
}

/* Wait before the next try; false: the deadline would pass. Half of the pause is random, so that many do not come back
 * at once. */
static bool
pause_before(unsigned tries, int64_t deadline_ms)
{
	int64_t pause = (int64_t)PAUSE_MS << (tries - 1);
	struct timespec now, wait;

	clock_gettime(CLOCK_MONOTONIC, &now);
	pause = pause / 2 + now.tv_nsec / 1000 % (pause / 2);
	if (http_now_ms() + pause >= deadline_ms)
		return false;
	wait = (struct timespec){.tv_sec = pause / 1000, .tv_nsec = pause % 1000 * 1000000};
	nanosleep(&wait, NULL);
	return true;
}

int
http_call(const struct http_peer *peer, const char *method, const char *path, const char *const *headers,
          const char *body, struct http_reply *reply, struct err *err)
{
	struct curl_slist *list = NULL, *longer;
	char why[CURL_ERROR_SIZE];
	CURLcode rc = CURLE_OK;
	CURL *curl = NULL;
	int result = -1;

	reply->sent = 0;
	reply->status = 0;
	if (peer->clear && !is_loopback(peer->host_port)) {
		err_set(err, ERR_REFUSED, "clear http is refused for \"%s\"", peer->host_port);
		return err_hint(err, "A key may cross a network only inside TLS; http is for a server on this machine.");
	}
	if (curl_ready(err) != 0)
		return -1;
	for (; headers != NULL && *headers != NULL; headers++) {
		if ((longer = curl_slist_append(list, *headers)) == NULL) {
			err_nomem(err);
			goto done;
		}
		list = longer;
	}
	if ((curl = prepare(peer, method, path, list, body, reply, why, err)) == NULL)
		goto done;
	do
		rc = try(curl, peer, reply, why);
	/* nothing sent: the deadline had passed already */
	while (is_worth_another(rc, reply->status) && reply->sent > 0 && reply->sent < TRIES_MAX &&
	       pause_before(reply->sent, peer->deadline_ms));
	result = rc == CURLE_OK ? 0 : no_answer(peer, rc, why, reply, err);
done:
	curl_easy_cleanup(curl);
	curl_slist_free_all(list);
	return result;
}

static bool
is_plain(unsigned char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       (c != '\0' && strchr("-._~/", c) != NULL);
}

int
http_escape_path(const char *path, char *out, size_t out_len, struct err *err)
{
	static const char digits[] = "0123456789ABCDEF";
	const char *part = path;
	size_t len = 0;

	for (const char *p = path;; p++) {
		if (*p == '/' || *p == '\0') {
			size_t n = (size_t)(p - part);

			if (n == 0 || (n == 1 && part[0] == '.') || (n == 2 && part[0] == '.' && part[1] == '.'))
				return err_set(err, ERR_USAGE, "\"%.100s\" has a part that is empty, \".\" or \"..\"", path);
			part = p + 1;
		}
		if (len + 4 > out_len)
			return err_set(err, ERR_USAGE, "\"%.100s...\" is too long", path);
		if (*p == '\0')
			break;
		if (is_plain((unsigned char)*p))
			out[len++] = *p;
		else {
			out[len++] = '%';
			out[len++] = digits[(unsigned char)*p >> 4];
			out[len++] = digits[(unsigned char)*p & 15];
		}
	}
	out[len] = '\0';
	return 0;
}
