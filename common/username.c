#include "common/username.h"

#include <pwd.h>
#include <stdio.h>

void
username(uid_t uid, char name[static USERNAME_LEN])
{
	char text[4096];
	struct passwd entry, *found = NULL;

	name[0] = '\0';
	if (getpwuid_r(uid, &entry, text, sizeof(text), &found) == 0 && found != NULL)
		snprintf(name, USERNAME_LEN, "%s", found->pw_name);
}
