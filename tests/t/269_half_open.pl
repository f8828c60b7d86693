# Goal: a peer that is gone without a word, so that its connection is half open, is found out by TCP where nothing need be said for a
# long time (tcp_keepalive), and where what was sent is not acknowledged (tcp_user_timeout): between commands, while a session is held,
# in a base backup, on either side.
use Walcrypt::Network;
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::Cluster;
use Test::More;
use Time::HiRes qw(time);
use Walcrypt;
use Walcrypt::Wire;

my $red = Walcrypt::Node->new('red', own_host => 0);
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "listen_addresses = '127.0.0.1'\nfsync = off\n");
$red->append_conf('pg_hba.conf', "host all,replication all 127.0.0.1/32 trust\n");
$red->start;
$red->safe_psql('postgres', "CREATE TABLE t AS SELECT i, repeat(md5(i::text), 28) AS text FROM generate_series(1, 30000) i");
my $me = (getpwuid($<))[0];
my $near = $red->connstr_for_proxy;
my $far = 'host=127.0.0.1 port=' . $red->port . " user=$me";
my $proxy = Walcrypt::Proxy->new(
	nodes => { red => { conninfo => $near }, far => { conninfo => $far, keyset => 'none' }, blue => { keyset => 'blue', upstream => 'red' }, green => { keyset => 'blue', upstream => 'far' } },
	settings => { tcp_keepalive => '2s', tcp_user_timeout => '4s', wal_receiver_timeout => 0 });
$proxy->key_init('blue');
$proxy->start;

sub begin
{
	my ($c, $user, $command, $stop) = @_;
	$c->startup(user => $user, replication => 'true', application_name => "test_$user");
	defined $stop ? $c->until('Z') : $c->until('R');
	if (defined $command) { $c->send('Q', "$command\0"); $c->until($stop); }
	return $c;
}
my $backup = "BASE_BACKUP (LABEL 'x', CHECKPOINT 'fast', WAIT 'false', MAX_RATE 64)";
my $ready = begin(Walcrypt::Wire->connect_tcp($proxy), 'blue', 'IDENTIFY_SYSTEM', 'Z');
my $below = begin(Walcrypt::Wire->connect_tcp($proxy), 'blue', $backup, 'H');
my $above = begin(Walcrypt::Wire->connect($proxy), 'green', $backup, 'H');
$proxy->console('PAUSE');
my $held = begin(Walcrypt::Wire->connect_tcp($proxy), 'blue');
wait_for('all of them', sub { my $s = $proxy->console('SHOW SESSIONS'); $s =~ /\|held\|/ && $s =~ /\|ready\|/ && (() = $s =~ /\|backup\|/g) == 2 });

# every packet is lost from here on; Unix sockets go on
system('ip link set lo down') == 0 or die "ip link: $?";
my $start = time();
# each by its own state
for my $case ([ 'ready', qr/\|blue\|[^|]*\|127\S+\|ready\|/, 'a client between commands' ], [ 'held', qr/\|held\|/, 'a client that is held' ], [ 'below', qr/\|blue\|[^|]*\|127\S+\|backup\|/, 'a client in a base backup' ],
	[ 'above', qr/\|green\|[^|]*\|local\|backup\|/, 'an upstream in a base backup' ]) {
	my ($name, $what, $who) = @$case;
	wait_for("$who to be found out", sub { $proxy->console('SHOW SESSIONS') !~ $what }, 60);
	cmp_ok(time() - $start, '<', 45, "$who that is gone without a word is found out");
}
like($proxy->log, qr/lost the connection to upstream "far"/, 'the log has the upstream');
my ($seen) = $above->until('E');
like($seen, qr/E$/, 'whose client is told, and has no backup that looks complete');
wait_for('the walsenders to go', sub { $red->safe_psql('postgres', "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'test_blue'") eq '0' });
pass('the upstream connections of clients that are gone are closed');
system('ip link set lo up') == 0 or die "ip link: $?";
$proxy->console('RESUME');
begin(Walcrypt::Wire->connect_tcp($proxy), 'green', 'IDENTIFY_SYSTEM', 'Z');
pass('when the link is back, so are the sessions');
is($proxy->stop, 0, 'the proxy stops in good order');
done_testing();
