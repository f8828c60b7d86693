# Goal: a client on a slow link is given the time that it needs for what is on its way to it when its timeline ends, as long as it says
# that it is there.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::Cluster;
use Socket;
use Test::More;
use Time::HiRes qw(sleep);
use Walcrypt;
use Walcrypt::Wire;

my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "fsync = off\nwal_keep_size = 512MB\nautovacuum = off\n");
$red->start;
$red->backup('b');
my $green = Walcrypt::Node->new('green');
$green->init_from_backup($red, 'b', has_streaming => 1);
$green->start;
$red->safe_psql('postgres', 'SELECT pg_switch_wal()');
my $start = $red->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()') =~ s/[^\/]*$/sprintf('%X', hex($&) & 0xFF000000)/er;
$red->safe_psql('postgres', "SELECT count(pg_logical_emit_message(false, 'x', repeat('z', 1000000))) FROM generate_series(1, 12)");
$green->take_over($red);
my $proxy = Walcrypt::Proxy->new(nodes => { green => { conninfo => $green->connstr_for_proxy }, blue => { allow_clear => 'on' } });
$proxy->start;

my $c = Walcrypt::Wire->connect_tcp($proxy);
setsockopt($c->{socket}, SOL_SOCKET, SO_RCVBUF, 32768);
$c->startup(user => 'blue', replication => 'true');
$c->until('Z');
$c->send('Q', "START_REPLICATION PHYSICAL $start TIMELINE 1\0");
$c->until('W');
my ($at, $n) = (0, 0);
while ($proxy->console('SHOW SESSIONS') !~ /\|drain\|/) {
	for (1 .. 4) {
		my ($type, $body) = $c->message;
		(my $kind, $at) = unpack('aQ>', $body);
		$n++;
	}
}
note("$n messages before the upstream has sent all");
# from here on slowly, for longer than the fifteen seconds that a client which says nothing is given
for (1 .. 18) {
	$c->send('d', 'r' . pack('Q>Q>Q>Q>C', $at, $at, 0, 0, 0));
	sysread($c->{socket}, $c->{in}, 4096, length $c->{in});
	sleep 1;
}
is(($c->until('cE'))[0] =~ s/d+/d/r, 'dc', 'all of it comes, and the end of the timeline');
$c->send('c', '');
is(($c->until('Z'))[0], 'TDCCZ', '... and which timeline is the next');
is($proxy->stop, 0, 'the proxy stops in good order');
done_testing();
