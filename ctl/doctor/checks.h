/*
 * checks: what walcrypt-ctl doctor looks at. Each changes nothing and puts what it sees into findings; none fails.
 */
#ifndef CTL_DOCTOR_CHECKS_H
#define CTL_DOCTOR_CHECKS_H

#include "common/settings.h"
#include "ctl/doctor/findings.h"

/* Processor, locked memory, swap, core dumps, SELinux and AppArmor, clock. */
void doctor_host(struct findings *f);
/* Who may read what the configuration names, and until when the proxy's certificate is good. */
void doctor_files(struct findings *f, const struct settings *settings);
/* The keystore's keysets: does each one's cluster key come and open it? */
void doctor_keystore(struct findings *f, const char *config, const struct settings *settings);
/* A data directory on this machine: version, checksums, modes, keys, guard; a server that runs in it has the layer. */
void doctor_directory(struct findings *f, const char *config, const char *datadir);
/* A node's server: version, checksums, settings, clock, slots. */
void doctor_node(struct findings *f, const struct settings *settings, const struct settings_node *node);
/* A key directory with the cluster key that the configuration (or kek in WALCRYPT_KEK) has for it. */
void doctor_keys(struct findings *f, const char *config, const char *path, const char *datadir, const char *keyset);

#endif
