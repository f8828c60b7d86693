#include "common/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF};

static void
from_v4(const struct in_addr *v4, uint8_t out[static 16])
{
	memcpy(out, mapped, sizeof(mapped));
	memcpy(out + sizeof(mapped), &v4->s_addr, 4);
}

/* Do the first bits agree? */
static bool
agree(const uint8_t *a, const uint8_t *b, unsigned bits)
{
	unsigned whole = bits / 8, rest = bits % 8;

	return memcmp(a, b, whole) == 0 && (rest == 0 || (a[whole] ^ b[whole]) >> (8 - rest) == 0);
}

int
address_range_parse(const char *text, struct address_range *r)
{
	const char *slash = strchr(text, '/');
	uint8_t host[16] = {0};
	char addr[INET6_ADDRSTRLEN];
	struct in_addr v4;
	unsigned most;

	memset(r, 0, sizeof(*r));
	if (strcmp(text, "local") == 0) {
		r->local = true;
		return 0;
	}
	if (snprintf(addr, sizeof(addr), "%.*s", (int)(slash != NULL ? (size_t)(slash - text) : strlen(text)), text) >=
	    (int)sizeof(addr))
		return -1;
	if (inet_pton(AF_INET, addr, &v4) == 1) {
		from_v4(&v4, r->addr);
		most = 32;
	} else if (inet_pton(AF_INET6, addr, r->addr) == 1)
		most = 128;
	else
		return -1;
	r->bits = most;
	if (slash != NULL) {
		char *end;
		unsigned long bits = strtoul(slash + 1, &end, 10);

		if (slash[1] < '0' || slash[1] > '9' || *end != '\0' || bits > most)
			return -1;
		r->bits = (unsigned)bits;
	}
	r->bits += 128 - most;
	/* 10.1.2.3/8: which of the two is meant? */
	memcpy(host, r->addr, sizeof(host));
	for (unsigned bit = r->bits; bit < 128; bit++)
		if (host[bit / 8] >> (7 - bit % 8) & 1)
			return -1;
	return 0;
}

bool
address_bytes(const struct sockaddr *addr, uint8_t out[static 16])
{
	if (addr->sa_family == AF_INET)
		from_v4(&((const struct sockaddr_in *)(const void *)addr)->sin_addr, out);
	else if (addr->sa_family == AF_INET6)
		memcpy(out, ((const struct sockaddr_in6 *)(const void *)addr)->sin6_addr.s6_addr, 16);
	else
		return false;
	return true;
}

bool
address_range_has(const struct address_range *r, const struct sockaddr *addr)
{
	uint8_t bytes[16];

	if (r->local)
		return addr->sa_family == AF_UNIX;
	return address_bytes(addr, bytes) && agree(bytes, r->addr, r->bits);
}

bool
address_is_loopback(const struct sockaddr *addr)
{
	static const struct address_range v4 = {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 127}, 96 + 8, false};
	static const struct address_range v6 = {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 128, false};

	return addr->sa_family == AF_UNIX || address_range_has(&v4, addr) || address_range_has(&v6, addr);
}

bool
address_text_is_loopback(const char *text)
{
	struct sockaddr_in v4 = {.sin_family = AF_INET};
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};

	if (strcmp(text, "localhost") == 0)
		return true;
	if (inet_pton(AF_INET, text, &v4.sin_addr) == 1)
		return address_is_loopback((const struct sockaddr *)&v4);
	return inet_pton(AF_INET6, text, &v6.sin6_addr) == 1 && address_is_loopback((const struct sockaddr *)&v6);
}

void
address_text(const struct sockaddr *addr, char *out, size_t len)
{
	char host[INET6_ADDRSTRLEN] = "";

	if (addr->sa_family == AF_INET) {
		const struct sockaddr_in *in = (const void *)addr;

		inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
		snprintf(out, len, "%s:%u", host, ntohs(in->sin_port));
	} else if (addr->sa_family == AF_INET6) {
		const struct sockaddr_in6 *in = (const void *)addr;

		inet_ntop(AF_INET6, &in->sin6_addr, host, sizeof(host));
		snprintf(out, len, "[%s]:%u", host, ntohs(in->sin6_port));
	} else
		snprintf(out, len, "local");
}
