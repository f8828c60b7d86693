/* address: IP addresses as configuration and logs need them. */
#ifndef COMMON_ADDRESS_H
#define COMMON_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#define ADDRESS_TEXT_LEN 80

/* An address or a network: 10.0.0.12, 10.0.0.0/8, fd00::/8; or "local": Unix sockets. */
struct address_range {
	uint8_t addr[16]; /* IPv4: as ::ffff:a.b.c.d */
	unsigned bits;    /* 0 to 128 */
	bool local;
};

/* -1 when the text is neither; host bits behind the network's are an error too. */
int address_range_parse(const char *text, struct address_range *r);
/* Is the peer in it? */
bool address_range_has(const struct address_range *r, const struct sockaddr *addr);
/* The 16 bytes of an address; false for other than IP. */
bool address_bytes(const struct sockaddr *addr, uint8_t out[static 16]);
/* 127.0.0.0/8, ::1, and Unix sockets. */
bool address_is_loopback(const struct sockaddr *addr);
/* The same of an address as text; "localhost" is taken for one. */
bool address_text_is_loopback(const char *text);
/* "10.0.0.12:40000", "[::1]:40000", "local". */
void address_text(const struct sockaddr *addr, char *out, size_t len);

#endif
