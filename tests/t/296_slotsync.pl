# Goal: a standby of PostgreSQL 17 synchronises logical slots through the proxy; no other SQL passes. And PostgreSQL 17's
# clients begin with TLS at once when they are told to.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Certificates;
use Walcrypt::Wire;

use_postgres($ENV{SLOTSYNC_POSTGRES} // 17);
my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 'logical', extra => ['-k']);
$red->start;
$red->safe_psql('postgres', q{
	CREATE TABLE t (n int);
	SELECT pg_create_physical_replication_slot('blue');
	SELECT pg_create_logical_replication_slot('follows', 'pgoutput', false, false, true); });
my $pki = Walcrypt::Certificates->new(PostgreSQL::Test::Utils::tempdir() . '/pki');
$pki->authority('ca');
$pki->make('proxy', ca => 'ca', cn => 'localhost', names => 'DNS:localhost,IP:127.0.0.1');
my $proxy = Walcrypt::Proxy->new(
	nodes => { red => { conninfo => $red->connstr_for_proxy }, blue => { allow_clear => 'on', allow_sql => 'slotsync' }, green => { allow_clear => 'on' } },
	settings => { client_tls_sslmode => 'allow', client_tls_cert_file => $pki->file('proxy.crt'), client_tls_key_file => $pki->file('proxy.key') });
$proxy->start;

my $blue = Walcrypt::Node->new('blue');
system_or_bail('pg_basebackup', '-D', $blue->data_dir, '-d', $proxy->connstr('blue'), '--checkpoint=fast', '--no-sync', '-R');
$blue->append_conf('postgresql.auto.conf', 'port = ' . $blue->port . "\nunix_socket_directories = '" . $blue->host . "'\nprimary_slot_name = 'blue'\n"
	. "primary_conninfo = '" . $proxy->connstr('blue') . " dbname=postgres'\nhot_standby_feedback = on\nsync_replication_slots = on\n");
$blue->start;
$red->safe_psql('postgres', 'INSERT INTO t SELECT generate_series(1, 1000)');
wait_for('the standby to replay', sub { $blue->safe_psql('postgres', 'SELECT count(*) FROM t') eq '1000' });
wait_for('the slot to be synchronised', sub {
	# the primary's slot moves on, so that the standby finds a point that it can take over
	$red->safe_psql('postgres', q{SELECT pg_replication_slot_advance('follows', pg_current_wal_lsn()); SELECT pg_log_standby_snapshot()});
	return $blue->safe_psql('postgres', q{SELECT synced AND failover AND NOT temporary FROM pg_replication_slots WHERE slot_name = 'follows'}) eq 't';
});
pass('a logical slot is synchronised through the proxy');
like($proxy->log, qr/\(blue\): blue_slotsync worker from/, 'by a session of its own') or diag($proxy->log);

sub sql
{
	my ($user, $query, $database) = @_;
	my ($out, $err) = ('', '');
	IPC::Run::run([ 'psql', '-XAt', '-d', $proxy->connstr($user) . ' dbname=' . ($database // 'postgres'), '-c', $query ], '<', \undef, '>', \$out, '2>', \$err);
	return ($out, $err);
}
my @list = ('SELECT slot_name, plugin, confirmed_flush_lsn, restart_lsn, catalog_xmin, two_phase, failover, database, invalidation_reason FROM pg_catalog.pg_replication_slots WHERE failover and NOT temporary',
	q{SELECT pg_is_in_recovery(), count(*) = 1 FROM pg_catalog.pg_replication_slots WHERE slot_type='physical' AND slot_name='blue'});
like((sql('blue', $list[0]))[0], qr/^follows\|pgoutput\|/, 'the query of slots, asked by hand');
is((sql('blue', $list[1]))[0], "f|t\n", 'the check of the physical slot');
for my $query ('SELECT 1', 'TABLE t', "$list[0]; TABLE t", "$list[1]; DROP TABLE t", 'IDENTIFY_SYSTEM', 'BASE_BACKUP', 'SELECT pg_read_file($$postgresql.conf$$)', 'BEGIN',
	q{SELECT pg_is_in_recovery(), count(*) = 1 FROM pg_catalog.pg_replication_slots WHERE slot_type='physical' AND slot_name='x' OR true}) {
	my ($out, $err) = sql('blue', $query);
	like($err, qr/takes the queries of a slot synchronisation here, and no others/, substr($query, 0, 40) . ': refused');
	is($out, '', 'and not answered');
}
like((sql('green', $list[0]))[1], qr/takes replication connections only/, 'a node without allow_sql = slotsync asks nothing');
like((sql('nobody', $list[0]))[1], qr/no node or profile "nobody"/, 'nor does anybody else');
is($red->safe_psql('postgres', 'SELECT count(*) FROM t'), '1000', 'nothing has changed');

# TLS from the first byte on (the tests' PostgreSQL 18 has no TLS)
if (postgres_major() == 17) {
	my ($out, $err) = ('', '');
	my $direct = "host=localhost hostaddr=127.0.0.1 port=$proxy->{port} user=walcrypt_admin dbname=walcrypt sslmode=verify-full sslnegotiation=direct sslrootcert=" . $pki->file('ca.crt');
	IPC::Run::run([ 'psql', '-XAt', '-d', $direct, '-c', 'SHOW VERSION' ], '<', \undef, '>', \$out, '2>', \$err);
	like($out, qr/^walcrypt-proxy /, 'sslnegotiation=direct') or diag($err);
}
# a slot that somebody uses is changed when it is free, however long that takes: the server says nothing meanwhile
$proxy->{settings}{wal_receiver_timeout} = '1s';
$proxy->write_conf;
is($proxy->console('RELOAD'), 'RELOAD', 'RELOAD for wal_receiver_timeout');
my $holder = IPC::Run::start([ 'pg_recvlogical', '-d', $red->connstr('postgres'), '-S', 'follows', '--start', '-f', '/dev/null', '-o', 'proto_version=1', '-o', 'publication_names=p' ], '<', \undef, '>&', \my $held);
wait_for('the slot to be in use', sub { $red->safe_psql('postgres', q{SELECT active FROM pg_replication_slots WHERE slot_name = 'follows'}) eq 't' });
my $c = Walcrypt::Wire->begin($proxy, 'blue');
$c->send('Q', "ALTER_REPLICATION_SLOT follows (FAILOVER false)\0");
ok(!$c->more(3), 'ALTER_REPLICATION_SLOT waits for who uses the slot');
$holder->kill_kill;
is(($c->until('Z'))[0], 'CZ', '... and is answered then');
is($red->safe_psql('postgres', q{SELECT failover FROM pg_replication_slots WHERE slot_name = 'follows'}), 'f', '... and has done it');

$blue->stop;
is($proxy->stop, 0, 'it stops in good order');
done_testing();
