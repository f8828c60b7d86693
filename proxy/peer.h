/* peer: where a connection comes from and through which door. */
#ifndef PROXY_PEER_H
#define PROXY_PEER_H

#include <sys/socket.h>

#include "common/address.h"
#include "common/settings.h"

struct peer {
	struct sockaddr_storage addr;
	char text[ADDRESS_TEXT_LEN];
	char door[SETTINGS_NAME_MAX + 1]; /* NAME of a [listen NAME] port; "": the common ones */
};

#endif
