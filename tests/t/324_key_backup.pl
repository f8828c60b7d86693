# Backups of keys: key backup, key restore, key sync. Everything else is taken away, key service, keystore and configuration, and from
# the file and its passphrase an old base backup starts again. An independent decoder reads the file. The passphrase comes from a
# file, a descriptor or a real terminal, never from the command line.
use strict;
use warnings;
use IPC::Run ();
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Terminal;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/backup';
mkdir $tmp, 0700;
my $secret = 'correct horse battery staple';
sub put { my ($path, $text, $mode) = @_; open(my $f, '>', $path) or die; print $f $text; close $f; chmod($mode // 0600, $path); return $path; }
my $words = put("$tmp/passphrase", "$secret\nwhat comes after the first line does not count\n");
my @pass  = ('--passphrase-file', $words);

my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "wal_keep_size = 256MB\n");
$red->start;
$red->safe_psql('postgres', 'CREATE TABLE t AS SELECT generate_series(1, 3000) AS i');
my %node = map { $_ => Walcrypt::Node->new($_) } qw(blue old);
my $proxy = Walcrypt::Proxy->new(nodes => {
	red => { conninfo => $red->connstr_for_proxy }, blue => { conninfo => $node{blue}->connstr_for_proxy, keyset => 'blue', datadir => $node{blue}->data_dir } });
my @conf = ('--config', $proxy->conf);
$proxy->key_init($_) for qw(blue other);
$proxy->start;
$node{blue}->init_from_proxy($proxy, 'blue');
$node{blue}->start;

sub epochs { my (@which) = @_; return join(' ', map { "$_->{number}:$_->{id}>$_->{after_timeline}" } @{ decode_json(ctl(qw(key show --json), @which))->{epochs} }); }

sub refused
{
	my ($status, $expected, $name, @args) = @_;
	my ($rc, $out, $err) = ctl_output(@args);
	is($rc, $status, "$name: exit status");
	like($err, $expected, "$name: message");
	unlike($out . $err, qr/\b[0-9a-f]{64}\b|\Q$secret\E/, "$name: no secret in it");
	return;
}

# an old base backup, which has epoch 1 alone; then a promotion to epoch 2, and another cluster key
$node{old}->init_from_proxy($proxy, 'blue');
ctl(qw(key new-epoch blue other), @conf);
$node{blue}->restart;
$red->wait_for_catchup('blue');
$red->stop;
$node{blue}->promote;
$node{blue}->safe_psql('postgres', 'INSERT INTO t SELECT generate_series(1, 500)');
my $rows = $node{blue}->safe_psql('postgres', 'SELECT count(*) FROM t');
$node{blue}->stop;
$proxy->stop;
kek_file("$tmp/kek2");
ctl('key', 'alter', '--all', @conf, '--kek', $proxy->kek_uri, '--new-kek', "file:$tmp/kek2");

# the backup
my $file = "$tmp/keys.backup";
refused(5, qr/wrong cluster key for key directory/, 'a cluster key that does not open them', qw(key backup), $file, @conf, @pass);
ok(!-e $file, '... writes nothing');
my @kek2 = ('--kek', "file:$tmp/kek2");
my $out = ctl('key', 'backup', $file, @conf, @kek2, @pass);
like($out, qr/^keyset "blue": AES256: relation key \w{16}, WAL key \w{16} \(epoch 2\).*\nkeyset "other": .*\nWritten to .*, read back and compared\./, 'key backup');
is((stat $file)[2] & 07777, 0600, 'mode 0600');
is(ctl('key', 'restore', $file, '--list', @pass), join('', map { "$_\n" } (split(/\n/, $out))[ 0 .. 1 ]), 'key restore --list says the same');
refused(6, qr/exists already/, 'a backup that is there', 'key', 'backup', $file, @conf, @kek2, @pass);

# the independent decoder
my $decoded = `python3 tests/decoder/decoder.py backup --passphrase-file $words $file`;
for my $name (qw(blue other)) {
	my $info = decode_json(ctl(qw(key show --json), $name, @conf));
	like($decoded, qr/^keyset $name: method 3 system $info->{system_identifier} relation $info->{relation_id} cluster key $info->{kek_id}$/m, "$name: the decoder finds the relation key");
	like($decoded, qr/^keyset $name: epoch $_->{number} after timeline $_->{after_timeline} $_->{id}$/m, "... and epoch $_->{number}") for @{ $info->{epochs} };
}
for my $other ([ 'keys in it', join('|', map { unpack('H*', slurp_from($_)) } glob($proxy->keystore . '/blue/live/*.wkey')) ]) {
	is(scalar(() = unpack('H*', slurp_from($file)) =~ /$other->[1]/), 0, 'it holds nothing of the key directory as it lies there');
}

# passphrases
refused(5, qr/the passphrase does not open "/, 'another passphrase', qw(key restore --list), $file, '--passphrase-file', put("$tmp/wrong", "correct horse battery stapler\n"));
refused(6, qr/has mode 0644: others may read or write it\nHINT:  .*chmod 0600/, 'a passphrase file that others can read', qw(key restore --list), $file, '--passphrase-file', put("$tmp/open", $secret, 0644));
refused(2, qr/the passphrase is empty/, 'an empty one', qw(key restore --list), $file, '--passphrase-file', put("$tmp/empty", "\n"));
refused(2, qr/must have at least 8 bytes/, 'a new one that is short', qw(key backup), "$tmp/short", @conf, @kek2, '--passphrase-file', put("$tmp/seven", "1234567\n"));
refused(2, qr/more than 1023 bytes/, 'one that has no end', qw(key restore --list), $file, '--passphrase-file', put("$tmp/long", 'x' x 2000));
refused(2, qr/takes the number of a descriptor/, 'a file and a descriptor', qw(key restore --list), $file, @pass, qw(--passphrase-fd 0));
refused(2, qr/takes the number of a descriptor/, 'no number', qw(key restore --list), $file, qw(--passphrase-fd x));
my ($o, $e) = ('', '');
IPC::Run::run([ $Walcrypt::ctl, qw(key restore --list --passphrase-fd 0), $file ], '<', \"$secret\n", '>', \$o, '2>', \$e);
like($o, qr/keyset "blue"/, 'from a descriptor') or diag $e;

# a damaged file; and none
my $bytes = slurp_from($file);
for my $what ([ 'a changed bit', substr($bytes, 0, 200) . chr(ord(substr($bytes, 200, 1)) ^ 1) . substr($bytes, 201), qr/is damaged: its checksum/ ],
	[ 'an end that is missing', substr($bytes, 0, -1), qr/is cut off/ ], [ 'an empty file', '', qr/is no backup of keys/ ], [ 'some other file', 'x' x 500, qr/is no backup of keys/ ]) {
	refused(3, $what->[2], $what->[0], qw(key restore --list), put("$tmp/bad", $what->[1]), @pass);
}
refused(1, qr/could not open/, 'no file', qw(key restore --list), "$tmp/none", @pass);

# on a terminal
my @asked = (qr/Passphrase for the backup: $/, qr/Once more: $/);
my ($status, $seen, $pout, $perr) = on_terminal([ [ $asked[0], "$secret\n" ], [ $asked[1], "$secret\n" ] ], 'key', 'backup', "$tmp/typed", @conf, @kek2);
is($status, 0, 'a passphrase typed twice') or diag $perr;
like($seen, qr/^Passphrase for the backup: <answered>\s+Once more: <answered>/, '... is asked for');
unlike($seen . $pout . $perr, qr/\Q$secret\E/, '... and not echoed');
is(ctl(qw(key restore --list), "$tmp/typed", @pass), ctl(qw(key restore --list), $file, @pass), '... opens it');
($status, $seen, $pout, $perr) = on_terminal([ [ qr/Passphrase of the backup: $/, "$secret\n" ] ], qw(key restore --list), $file);
is($status, 0, 'typed once to open it') or diag $perr;
like($pout, qr/keyset "blue"/, '... it opens');
($status, $seen, $pout, $perr) = on_terminal([ [ $asked[0], "$secret\n" ], [ $asked[1], "another one\n" ] ], 'key', 'backup', "$tmp/typed2", @conf, @kek2);
is($status >> 8, 2, 'two that differ');
like($perr, qr/the two passphrases differ/, '... are told');
($status, $seen, $pout, $perr) = on_terminal([ [ $asked[0], "abc\003\n" ] ], 'key', 'backup', "$tmp/typed2", @conf, @kek2);
like($perr, qr/interrupted/, 'Ctrl-C');
ok(!-e "$tmp/typed2", '... and nothing was written');
($o, $e) = ('', '');
IPC::Run::run([ 'setsid', '-w', $Walcrypt::ctl, qw(key restore --list), $file ], '<', \undef, '>', \$o, '2>', \$e);
like($e, qr/there is no terminal to ask for the passphrase on\nHINT:  Give --passphrase-file/, 'no terminal');

# a keystore that is not empty is not overwritten
refused(6, qr/keyset "blue" exists already/, 'over keysets', qw(key restore), $file, @conf, @pass);
mkdir "$tmp/half", 0700;
system('cp', '-rp', $proxy->keystore . '/other', "$tmp/half/third") == 0 or die;
refused(6, qr/is not empty: it has keyset "third"\nHINT:  Name the keysets/, 'beside others', qw(key restore), $file, '--keystore', "$tmp/half", @kek2, @pass);
refused(2, qr/the backup has no keyset "pink"/, 'an unknown one', qw(key restore), $file, 'pink', '--keystore', "$tmp/half", @kek2, @pass);
ctl(qw(key restore), $file, 'other', '--keystore', "$tmp/half", @kek2, @pass);
is(join(' ', sort map { s{.*/}{}r } grep { -d } glob("$tmp/half/*")), 'other third', 'named, it is restored beside others');
refused(4, qr/kek9/, 'no cluster key', qw(key restore), $file, '--keystore', "$tmp/nokek", '--kek', "file:$tmp/kek9", @pass);
is(join(' ', glob("$tmp/nokek/*/live")), '', '... makes no keyset');

# from a cold start: the file, its passphrase and a base backup are all that is left
my %ids = map { $_ => epochs($_, @conf) } qw(blue other);
my $bluekeys = epochs('-D', $node{blue}->data_dir);
rename($proxy->keystore, "$tmp/gone") or die;
unlink $proxy->conf, "$tmp/kek2", $proxy->kek_uri =~ s/^file://r;
refused(4, qr/could not open cluster key file/, 'the old cluster key is gone', 'key', 'verify', '-D', $node{old}->data_dir, '--kek', $proxy->kek_uri);
my $new = "file:$tmp/new.kek";
my @ks = ('--keystore', "$tmp/ks");
$out = ctl('key', 'restore', $file, @ks, '--kek', $new, '--create-kek', @pass);
like($out, qr/Made a new cluster key: \Q$new\E\n.*Restored keyset "blue", under the cluster key of \Q$new\E\.\n.*Restored keyset "other"/s, 'key restore');
is(epochs('--key-dir', "$tmp/ks/$_"), $ids{$_}, "$_: all keys, as they were") for qw(blue other);
is((grep { (stat $_)[2] & 077 } glob("$tmp/ks $tmp/ks/* $tmp/ks/*/* $tmp/ks/*/*/*")), 0, 'nobody else can read them');
my ($was, $is) = map { decode_json(ctl(qw(key show --json --key-dir), $_))->{epochs}[0]{created} } "$tmp/gone/blue", "$tmp/ks/blue";
is($is, $was, '... and the day they were made');
my ($rc) = ctl_output('key', 'verify', '--key-dir', "$tmp/ks/blue", '--kek', $new);
is($rc, 0, 'the new cluster key opens them');

# key sync: the base backup gets epoch 2 and the cluster key of today
my $dir = $node{old}->data_dir;
refused(5, qr/wrong cluster key/, 'not synced, it does not open', 'key', 'verify', '-D', $dir, '--kek', $new);
my $before = join("\0", map { slurp_from($_) } glob("$dir/pg_cryptokeys/live/*"));
like(ctl('key', 'sync', '-D', $dir, @ks, '--kek', $new, '--dry-run'), qr/would get the keys of keyset "blue": .*\nall 2 epochs, under the cluster key of \Q$new\E/, 'a dry run');
is(join("\0", map { slurp_from($_) } glob("$dir/pg_cryptokeys/live/*")), $before, '... changes nothing');
like(ctl('key', 'sync', '-D', $dir, @ks, '--kek', $new), qr/has the keys of keyset "blue"/, 'key sync');
is(epochs('-D', $dir), $ids{blue}, 'all epochs');
$node{old}->use_layer($new);
unlink "$dir/standby.signal";
$node{old}->append_conf('postgresql.auto.conf', "primary_conninfo = ''\n");
$node{old}->start;
is($node{old}->safe_psql('postgres', 'SELECT count(*) FROM t'), '3000', 'the base backup starts and has its rows');
$node{old}->stop;
($rc, $out, my $verr) = ctl_output('verify', '-D', $dir, '--kek', $new);
is($rc, 0, '... and verifies clean') or diag($out, $verr);
ctl('key', 'sync', '-D', $node{blue}->data_dir, @ks, '--kek', $new);
is(epochs('-D', $node{blue}->data_dir), $bluekeys, 'the promoted node: the keys that it had');
$node{blue}->use_layer($new);
$node{blue}->start;
is($node{blue}->safe_psql('postgres', 'SELECT count(*) FROM t'), $rows, '... and its rows');
$node{blue}->stop;

# what sync refuses
my $lone = Walcrypt::Node->new('lone');
$lone->init_encrypted('file:' . kek_file("$tmp/lone.kek"));
refused(6, qr/has no keyset with relation key \w{16}\nHINT:  The data directory is under other keys/, 'keys that the keystore has not', 'key', 'sync', '-D', $lone->data_dir, @ks, '--kek', $new);
refused(6, qr/has no keyset of that name with relation key/, '... by name', qw(key sync blue -D), $lone->data_dir, @ks, '--kek', $new);
rename($lone->data_dir . '/pg_cryptokeys', "$tmp/lone.keys");
refused(2, qr/has no key directory that would tell its keyset\nHINT:  Name the keyset/, 'no key directory', 'key', 'sync', '-D', $lone->data_dir, @ks, '--kek', $new);
refused(6, qr/keys belong to another cluster/, 'another cluster', qw(key sync blue -D), $lone->data_dir, @ks, '--kek', $new);
rename("$dir/pg_cryptokeys", "$tmp/old.keys");
ctl(qw(key sync blue -D), $dir, @ks, '--kek', $new);
is(epochs('-D', $dir), $ids{blue}, 'a lost key directory is made again');

# a cluster without keystore: its own backup, and an epoch that the keystore lacks is not lost
rename("$tmp/lone.keys", $lone->data_dir . '/pg_cryptokeys');
ctl(qw(key backup), "$tmp/lone.backup", '-D', $lone->data_dir, '--as', 'lone', '--kek', "file:$tmp/lone.kek", @pass);
ctl(qw(key new-epoch -D), $lone->data_dir, '--kek', "file:$tmp/lone.kek");
ctl(qw(key restore), "$tmp/lone.backup", 'lone', @ks, '--kek', $new, @pass);
my $two = epochs('-D', $lone->data_dir);
refused(5, qr/it has WAL key epoch 2, which the keystore lacks: wrong cluster key.*HINT:  Give --old-kek/s, 'an epoch that would be lost', 'key', 'sync', '-D', $lone->data_dir, @ks, '--kek', $new);
is(epochs('-D', $lone->data_dir), $two, '... is not');
ctl('key', 'sync', '-D', $lone->data_dir, @ks, '--kek', $new, '--old-kek', "file:$tmp/lone.kek");
is(epochs('-D', $lone->data_dir), $two, '... with --old-kek it is taken along');
($rc) = ctl_output('key', 'verify', '-D', $lone->data_dir, '--kek', $new);
is($rc, 0, '... under the new cluster key');
done_testing();
