#include "ctl/keyfolder.h"

#include <string.h>

#include "common/path.h"
#include "ctl/layer.h"

int
keyfolder_open(struct keyfolder *f, const struct keyfolder_choice *c, bool lock, struct err *err)
{
	memset(f, 0, sizeof(*f));
	if (c->name != NULL ? path_format(f->path, err, "%s/%s", c->keystore, c->name) != 0 ||
	                          path_format(f->what, err, "keyset \"%s\"", c->name) != 0
	                    : datadir_keydir(c->datadir, f->path, err) != 0 ||
	                          path_format(f->what, err, "data directory \"%s\"", c->datadir) != 0)
		return -1;
	if (keydir_read_info(f->path, &f->info, err) != 0 ||
	    source_find(&f->source, c->config, c->kek, c->name == NULL ? c->datadir : NULL, c->name, err) != 0)
		return err_context(err, "%.100s", f->what);
	f->source.conf.provider_random |= c->provider_random;
	if ((c->makes_keys && source_stir(&f->source, err) != 0) ||
	    (f->kek = source_fetch(&f->source, f->path, err)) == NULL)
		return err_context(err, "%.100s", f->what);
	/* nobody waits for a provider under the lock */
	if (lock && keydir_rewrap_begin(f->path, false, &f->lock, err) != 0)
		return -1;
	f->locked = lock;
	f->keys = lock ? keydir_rewrap_read(&f->lock, f->kek, err) : keydir_open(f->path, f->kek, err);
	return f->keys != NULL ? 0 : -1;
}

int
keyfolder_write(struct keyfolder *f, const struct keyset *keys, struct err *err)
{
	return keydir_rewrap_write(&f->lock, keys, f->kek, f->source.reference, err);
}

void
keyfolder_close(struct keyfolder *f)
{
	if (f->locked)
		keydir_rewrap_end(&f->lock);
	keyset_free(f->keys);
	kek_free(f->kek);
	source_free(&f->source);
	memset(f, 0, sizeof(*f));
}
