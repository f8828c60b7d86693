# Goal: a session that looks the ledger up while another one advances it under load is served under the same incarnation, on a
# timeline above 1 as well: only an upstream that really is behind begins a new one.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::Cluster;
use Test::More;
use Walcrypt;
use Walcrypt::Relay;
use Walcrypt::Wire;

my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "wal_keep_size = 256MB\n");
$red->start;
$red->stop;
$red->set_standby_mode;
$red->start;
$red->promote;
my $me = (getpwuid($<))[0];
my $relay = Walcrypt::Relay->new($red);
$relay->start;
my $proxy = Walcrypt::Proxy->new(nodes => { red => { conninfo => 'host=127.0.0.1 port=' . $relay->port . " user=$me" }, blue => { keyset => 'blue' } });
$red->safe_psql('postgres', 'CREATE TABLE t (i int)');
$proxy->key_init('blue');
$proxy->start;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $archive = IPC::Run::start([ 'pg_receivewal', '-D', $dir, '-d', $proxy->connstr('blue') . ' application_name=archive', '--no-loop' ], '<', \undef, '>&', \my $said);
sub number { my ($high, $low) = map { hex } split(m{/}, $_[0]); return $high * 2**32 + $low; }
# Write WAL; returns when the proxy has sent it to the archive.
sub advance
{
	$red->safe_psql('postgres', 'INSERT INTO t SELECT generate_series(1, 1000)');
	my $to = $red->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
	wait_for("the archive to get $to", sub {
		my ($row) = grep { /^\d+\|blue\|archive\|/ } split(/\n/, $proxy->console('SHOW SESSIONS'));
		my $sent = defined $row ? (split(/\|/, $row))[9] : '';
		return $sent ne '' && number($sent) >= number($to);
	});
	return;
}
advance();
my $start = $red->safe_psql('postgres', "SELECT pg_current_wal_flush_lsn()");

for my $question (qw(TIMELINE_HISTORY IDENTIFY_SYSTEM)) {
	my $c = Walcrypt::Wire->connect($proxy);
	$c->startup(user => 'blue', replication => 'true');
	my ($seen) = $c->until('Z');
	like($seen, qr/Z$/, 'a second session') or last;
	$relay->hold($question);
	$c->send('Q', "START_REPLICATION PHYSICAL $start TIMELINE 2\0");
	$relay->wait_held;
	advance() for 1 .. 3;
	$relay->release;
	($seen) = $c->until('WE');
	is($seen, 'W', "it is served, though the ledger has gone on before its $question was answered");
	close $c->{socket};
}
advance();
is(() = $proxy->log =~ /timeline 2 of cluster \d+ begins a new incarnation/g, 1, 'there is one incarnation');
unlike($proxy->log, qr/upstream is behind|new incarnation by now/, 'nobody takes the upstream for one that was rolled back');
ok(kill(0, $archive->{KIDS}[0]{PID}), 'the first session streams on');
$archive->signal('TERM');
$archive->finish;
is($proxy->stop, 0, 'the proxy stops in good order');
done_testing();
