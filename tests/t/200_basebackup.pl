# Goal: stock pg_basebackup through the proxy, in every form, gives a directory that holds ciphertext only, and a manifest that
# stock pg_verifybackup accepts.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::Cluster;
use Test::More;
use Walcrypt;

my $marker = 'marker-200-wohlverwahrt';
my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "wal_keep_size = 256MB\n");
$red->start;
my $space = PostgreSQL::Test::Utils::tempdir();
mkdir "$space/ts";
$red->safe_psql('postgres', "CREATE TABLESPACE ts LOCATION '$space/ts'");
$red->safe_psql('postgres', "CREATE TABLE t AS SELECT i, '$marker' || i AS text FROM generate_series(1, 20000) i;
	CREATE TABLE t_ts TABLESPACE ts AS SELECT i, '$marker' || i AS text FROM generate_series(1, 5000) i;
	CREATE INDEX ON t (text); CHECKPOINT");
$red->safe_psql('postgres', "CREATE UNLOGGED TABLE u AS SELECT '$marker'::text AS text");

my $proxy = Walcrypt::Proxy->new(nodes => { red => { conninfo => $red->connstr_for_proxy }, blue => { keyset => 'blue' } });
$proxy->key_init('blue');
$proxy->start;
my @via = ('-d', $proxy->connstr('blue'), '--checkpoint=fast', '--no-sync');
my $base = PostgreSQL::Test::Utils::tempdir();

sub marked { my @dirs = @_; return scalar(() = files_containing($marker, @dirs)); }
cmp_ok(marked($red->data_dir, "$space/ts"), '>', 2, 'the scan finds the marker in the primary');

# plain format, each way of taking WAL along, each algorithm
my @forms = ([ 'none', 'CRC32C' ], [ 'stream', 'SHA256' ], [ 'fetch', 'SHA512' ], [ 'none', 'SHA224' ], [ 'fetch', 'SHA384' ], [ 'none', 'NONE' ]);
for my $form (@forms) {
	my ($wal, $algorithm) = @$form;
	my ($to, $ts) = ("$base/$wal.$algorithm", "$base/ts.$wal.$algorithm");
	command_ok([ 'pg_basebackup', @via, '-D', $to, '-X', $wal, '--manifest-checksums', $algorithm, '-T', "$space/ts=$ts" ],
		"pg_basebackup -X $wal, $algorithm");
	command_ok([ 'pg_verifybackup', '-n', $to ], "pg_verifybackup -n, $algorithm");
	is(marked($to, $ts), 0, 'no marker in the backup');
	ok(-d "$to/pg_cryptokeys/live" && -f "$to/pg_cryptokeys/live/keyset.json", 'the key directory is there');
	like(slurp_file("$to/postgresql.auto.conf"), qr/^shared_preload_libraries = '.*libwalcrypt-storage\.so'$/m, 'and the guard');
	next if $wal eq 'none';
	my %what = encrypted_wal_files("$to/pg_wal");
	cmp_ok(scalar(keys %what), '>', 0, "-X $wal brings WAL");
	is_deeply([ grep { $what{$_} ne 'encrypted' } keys %what ], [], 'all of it encrypted');
}

# tar format, its parts looked at as they are and unpacked
command_ok([ 'pg_basebackup', @via, '-D', "$base/tar", '-F', 't', '-X', 'fetch' ], 'pg_basebackup in tar format');
{
	# an archive folder inside the data directory may hold two texts of one page: each file has a generation of its own
	my $archive = $red->data_dir . '/archive';
	my ($segment) = glob($red->data_dir . '/pg_wal/0000000100000000*');
	mkdir $archive;
	mkdir "$archive/again";
	system_or_bail('cp', $segment, $_) for $archive, "$archive/again";
	command_ok([ 'pg_basebackup', @via, '-D', "$base/twice", '-F', 't', '-X', 'none' ], 'with an archive folder in it');
	mkdir "$base/twice/x";
	system_or_bail('tar', '-xf', "$base/twice/base.tar", '-C', "$base/twice/x", 'archive');
	my @generation = map { unpack('L<', substr(slurp_file($_), 20, 4)) } glob("$base/twice/x/archive/0*"), glob("$base/twice/x/archive/again/0*");
	is(scalar @generation, 2, 'two files of one segment');
	isnt($generation[0], $generation[1], 'under two generations');
	system_or_bail('rm', '-r', $archive);
}
is(marked("$base/tar"), 0, 'no marker in the archives');
mkdir "$base/untar";
command_ok([ 'tar', '-x', '-f', "$base/tar/base.tar", '-C', "$base/untar" ], 'tar takes the archive');
copy_file("$base/tar/backup_manifest", "$base/untar/backup_manifest");
my ($oid) = map { m{/(\d+)\.tar$} ? $1 : () } glob("$base/tar/*.tar");
mkdir "$base/untar/pg_tblspc/$oid";
command_ok([ 'tar', '-x', '-f', "$base/tar/$oid.tar", '-C', "$base/untar/pg_tblspc/$oid" ], 'and the tablespace\'s');
command_ok([ 'pg_verifybackup', '-n', '-s', "$base/untar" ], 'pg_verifybackup -n -s on what was in them');
command_ok([ 'pg_verifybackup', '-n', "$base/untar" ], 'pg_verifybackup -n on what was in them');
command_ok([ 'pg_basebackup', @via, '-D', "$base/gz", '-F', 't', '-z', '-X', 'stream' ], 'tar format, compressed by the client');
command_ok([ 'pg_basebackup', @via, '-D', "$base/bare", '--no-manifest', '-T', "$space/ts=$base/ts.bare" ], 'without a manifest');
ok(!-e "$base/bare/backup_manifest", 'there is none');
command_ok([ 'pg_basebackup', @via, '-D', "$base/escaped", '--manifest-force-encode', '-T', "$space/ts=$base/ts.escaped" ], 'an escaped manifest');
command_ok([ 'pg_verifybackup', '-n', "$base/escaped" ], 'pg_verifybackup -n on it');
command_ok([ 'pg_basebackup', @via, '-D', "$base/rate", '-r', '20M', '-P', '-T', "$space/ts=$base/ts.rate" ], 'with a rate and progress');

# what cannot be honoured is said
command_fails_like([ 'pg_basebackup', @via, '-D', "$base/x1", '-F', 't', '-X', 'none', '--compress=server-gzip' ], qr/compress/i, 'compression by the server is refused');
command_fails_like([ 'pg_basebackup', @via, '-X', 'none', '-t', "server:$base/x2" ], qr/target/i, 'a target on the server is refused');

# pg_receivewal with a slot
command_ok([ 'pg_receivewal', '-d', $proxy->connstr('blue'), '-S', 'archive', '--create-slot', '--if-not-exists' ], 'a slot through the proxy');
mkdir "$base/archive";
$red->safe_psql('postgres', "INSERT INTO t SELECT i, '$marker' FROM generate_series(1, 1000) i");
my $end = $red->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
$red->safe_psql('postgres', 'SELECT pg_switch_wal()');
command_ok([ 'pg_receivewal', '-d', $proxy->connstr('blue'), '-D', "$base/archive", '-S', 'archive', '--endpos', $end, '--no-loop' ], 'pg_receivewal');
is(marked("$base/archive"), 0, 'no marker in the archive');
my %what = encrypted_wal_files("$base/archive");
is_deeply([ grep { $what{$_} ne 'encrypted' } keys %what ], [], 'it is encrypted');
command_ok([ 'pg_receivewal', '-d', $proxy->connstr('blue'), '-S', 'archive', '--drop-slot' ], 'the slot is dropped');
is($red->safe_psql('postgres', 'SELECT count(*) FROM pg_replication_slots'), '0', 'and gone');

is($proxy->stop, 0, 'the proxy stops in good order');
done_testing();

sub copy_file { my ($from, $to) = @_; open(my $f, '>:raw', $to) or die; print $f slurp_file($from); close $f; }
