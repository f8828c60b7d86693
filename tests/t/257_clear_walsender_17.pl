# Goal: an encrypted upstream of PostgreSQL 17 that streams clear WAL throughout, inside TLS (WALCRYPT_WALSENDER=clear), is taken for what it
# is: its files go from key to key, its WAL is encrypted by the proxy; nothing clear reaches a standby's or an archive's disk.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

use_postgres(17);
my $user = getpwuid($<);
my $marker = 'marker-257-offen';
my $tmp = PostgreSQL::Test::Utils::tempdir();
system_or_bail('openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-subj', '/CN=localhost', '-days', '2', '-keyout', "$tmp/key", '-out', "$tmp/cert");
chmod(0600, "$tmp/key");

my %node = map { $_ => Walcrypt::Node->new($_) } qw(red blue green);
$node{red}->init(allows_streaming => 1, extra => ['-k']);
$node{red}->append_conf('postgresql.conf', "log_statement = none\nwal_buffers = 16MB\nwal_keep_size = 256MB\nwal_retrieve_retry_interval = 100ms\n"
	. "ssl = on\nssl_cert_file = '$tmp/cert'\nssl_key_file = '$tmp/key'\nlisten_addresses = '127.0.0.1'\n");
$node{red}->start;
$node{red}->safe_psql('postgres', "CREATE TABLE t AS SELECT i, '$marker ' || i AS body FROM generate_series(1, 1000) i");
my $port = $node{blue}->port;
my $proxy = Walcrypt::Proxy->new(nodes => { red => { conninfo => $node{red}->connstr_for_proxy },
	blue => { conninfo => "host=127.0.0.1 port=$port user=$user sslmode=require", keyset => 'blue' }, green => { keyset => 'green' }, archive => { keyset => 'archive', profile => 1 } });
$proxy->key_init($_) for qw(blue green);
$proxy->key_init('archive', '--own-wal-key');
$proxy->start;
{
	local $ENV{WALCRYPT_WALSENDER} = 'clear';
	$node{blue}->init_from_proxy($proxy, 'blue');
	$node{blue}->start;
	$node{red}->wait_for_catchup('blue');
	$node{red}->stop;
	$node{blue}->promote;
}

# the configuration must say so: no WAL is taken for what it is not
my $offset = $proxy->log_size;
my ($out, $err) = ('', '');
ok(!IPC::Run::run([ 'pg_basebackup', '-D', "$tmp/refused", '-d', $proxy->connstr('green'), '-c', 'fast', '--no-sync', '-X', 'stream' ], '<', \undef, '>', \$out, '2>', \$err), 'walsender = files: refused');
like($proxy->log($offset), qr/from the upstream is not encrypted.*walsender = clear/s, '... with what to set');
$proxy->{nodes}{blue}{walsender} = 'clear';
$proxy->write_conf;
$proxy->console('RELOAD');

# a standby under another relation key, and an archive with a WAL key of its own, under load and over restarts of all
$node{green}->init_from_proxy($proxy, 'green');
$node{green}->start;
mkdir "$tmp/archive";
my $said = '';
my $receiver = IPC::Run::start([ 'pg_receivewal', '-D', "$tmp/archive", '-d', $proxy->connstr('archive') ], '<', \undef, '>&', \$said);
sub written
{
	my ($text) = @_;
	$node{blue}->safe_psql('postgres', "INSERT INTO t SELECT i, '$marker $text ' || i FROM generate_series(1, 20000) i; SELECT pg_switch_wal()");
	$node{blue}->safe_psql('postgres', "INSERT INTO t VALUES (0, '$marker tip')");
	$node{blue}->wait_for_catchup('green', 'replay', $node{blue}->lsn('flush'));
	return;
}
written('one');
$proxy->restart;
written('two');
{
	local $ENV{WALCRYPT_WALSENDER} = 'clear';
	$node{blue}->restart;
}
written('three');
$node{green}->stop('immediate');
$node{green}->start;
written('four');
my $facts = 'SELECT count(*), sum(hashtext(body)) FROM t';
is($node{green}->safe_psql('postgres', $facts), $node{blue}->safe_psql('postgres', $facts), 'the standby has the same rows');
my $last = $node{blue}->safe_psql('postgres', 'SELECT pg_walfile_name(pg_switch_wal())');
wait_for('the archive', sub { -e "$tmp/archive/$last" });
$receiver->signal('INT');
$receiver->finish;
for ([ green => $node{green}->data_dir . '/pg_wal' ], [ archive => "$tmp/archive" ]) {
	my ($whose, $dir) = @$_;
	my %what = encrypted_wal_files($dir);
	is(join(' ', map { "$_ $what{$_}" } grep { $what{$_} !~ /^(encrypted|empty)$/ } sort keys %what), '', "$whose: its WAL is ciphertext");
}
$node{blue}->safe_psql('postgres', "INSERT INTO t VALUES (0, '$marker end')");
$node{blue}->wait_for_catchup('green', 'replay', $node{blue}->lsn('flush'));
$node{green}->stop;
is(join(' ', files_containing($marker, $node{green}->data_dir, "$tmp/archive")), '', 'the marker is nowhere');
my ($rc, $o, $e) = ctl_output('verify', '-D', $node{green}->data_dir, '--kek', $proxy->kek_uri);
is($rc, 0, 'verify is clean on the standby') or diag($o . $e);

# the archive says what the upstream's disk says: its first whole segment, opened under either key
my ($segment) = map { m{([^/]+)$} } grep { -e $node{blue}->data_dir . "/pg_wal/$_" } map { m{([^/]+)$} } grep { !/partial|history/ } sort glob("$tmp/archive/0*");
ctl('wal', "$tmp/archive/$segment", '--decrypt', "$tmp/theirs", '--keyset', 'archive', '--config', $proxy->conf);
ctl('wal', $node{blue}->data_dir . "/pg_wal/$segment", '--decrypt', "$tmp/ours", '-D', $node{blue}->data_dir, '--kek', $proxy->kek_uri);
ok(slurp_file("$tmp/theirs") eq slurp_file("$tmp/ours"), "archive: $segment says what the upstream's does");
$node{green}->start;
$node{green}->promote;
$node{green}->check_integrity('green');
$node{blue}->stop;
done_testing();
