#include "common/http.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "common/clock.h"
#include "common/curl.h"

#define TRIES_MAX 5
#define PAUSE_MS 200 /* before the second try; doubles */

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
	if (rc == CURLE_WRITE_ERROR)
		return err_set(err, ERR_FAILED, "the answer of \"%s\" is longer than %zu bytes", peer->host_port,
		               reply->room - 1);
	return curl_explain(peer, rc, why, err);
}

static CURL *
prepare(const struct http_peer *peer, const char *method, const char *path, struct curl_slist *headers,
        const char *body, struct http_reply *reply, char *why, struct err *err)
{
	CURL *curl = curl_open(peer, peer->clear ? "http" : "https", path, why, err);
	long failed;

	if (curl == NULL)
		return NULL;
	failed = (long)curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
	failed |= (long)curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
	if (strcmp(method, "GET") != 0) {
		failed |= (long)curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body != NULL ? body : "");
		failed |= (long)curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
	}
	failed |= (long)curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take);
	failed |= (long)curl_easy_setopt(curl, CURLOPT_WRITEDATA, reply);
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
	int64_t left = peer->deadline_ms - clock_now_ms();
	CURLcode rc;

	why[0] = '\0';
	reply->len = 0;
	reply->body[0] = '\0';
	if (left <= 0)
		return CURLE_OPERATION_TIMEDOUT;
	curl_limit(curl, left);
	reply->sent++;
	rc = curl_easy_perform(curl);
	curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &reply->status);
	return rc;
}

/* Wait before the next try; false: the deadline would pass. Half of the pause is random, so that many do not come back
 * at once. */
static bool
pause_before(unsigned tries, const struct http_peer *peer)
{
	int64_t pause = (int64_t)PAUSE_MS << (tries - 1);
	struct timespec now, wait;

	clock_gettime(CLOCK_MONOTONIC, &now);
	pause = pause / 2 + now.tv_nsec / 1000 % (pause / 2);
	if ((peer->stop != NULL && *peer->stop) || clock_now_ms() + pause >= peer->deadline_ms)
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
	long answered = 0;
	int result = -1;

	reply->sent = 0;
	reply->status = 0;
	if (peer->clear && !is_loopback(peer->host_port)) {
		err_set(err, ERR_REFUSED, "clear http is refused for \"%s\"", peer->host_port);
		return err_hint(err, "A key may cross a network only inside TLS; http is for a server on this machine.");
	}
	for (; headers != NULL && *headers != NULL; headers++) {
		if ((longer = curl_slist_append(list, *headers)) == NULL) {
			err_nomem(err);
			goto done;
		}
		list = longer;
	}
	if ((curl = prepare(peer, method, path, list, body, reply, why, err)) == NULL)
		goto done;
	do {
		if ((rc = try(curl, peer, reply, why)) == CURLE_OK)
			answered = reply->status;
		/* nothing sent: the deadline had passed already */
	} while (is_worth_another(rc, reply->status) && reply->sent > 0 && reply->sent < TRIES_MAX &&
	         pause_before(reply->sent, peer));
	/* a try that the deadline cut off says less than the answer before it */
	if (rc == CURLE_OPERATION_TIMEDOUT && answered != 0) {
		rc = CURLE_OK;
		reply->status = answered;
		reply->len = 0;
		reply->body[0] = '\0';
	}
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
