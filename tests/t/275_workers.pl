# Goal: sessions are spread over as many worker threads as the configuration says, and each stays on its own, which does all that it asks for.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::Cluster;
use Test::More;
use Walcrypt;
use Walcrypt::Wire;

my ($workers, $each) = (3, 3);
my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "max_wal_senders = 20\n");
$red->start;
my $proxy = Walcrypt::Proxy->new(nodes => { red => { conninfo => $red->connstr_for_proxy }, blue => { keyset => 'blue' } }, settings => { workers => $workers });
$proxy->key_init('blue');
$proxy->start;
my %thread = map { slurp_from("$_/comm") =~ /^(worker-\d+)$/m ? ($1 => $_) : () } glob('/proc/' . $proxy->pid . '/task/*');
is(join(' ', sort keys %thread), join(' ', map { "worker-$_" } 0 .. $workers - 1), "$workers worker threads");

# How often each worker has slept.
sub slept { return map { $_ => (slurp_from("$thread{$_}/status") =~ /^voluntary_ctxt_switches:\s+(\d+)/m)[0] } keys %thread; }
# Who serves this client: the one that wakes for each of many questions.
sub server_of
{
	my ($c) = @_;
	my %before = slept();
	for (1 .. 100) {
		$c->send('Q', "IDENTIFY_SYSTEM\0");
		$c->until('Z');
	}
	my %after = slept();
	my ($most, $next) = sort { $b->[1] <=> $a->[1] } map { [ $_, $after{$_} - $before{$_} ] } keys %after;
	cmp_ok($most->[1], '>', 2 * $next->[1], "one worker serves a client: $most->[0] woke $most->[1] times, $next->[0] $next->[1]");
	return $most->[0];
}
my @clients = map { Walcrypt::Wire->begin($proxy, 'blue') } 1 .. $workers * $each;
my @first = map { server_of($_) } @clients;
my %count;
$count{$_}++ for @first;
is(join(' ', map { "$_: $count{$_}" } sort keys %count), join(' ', map { "worker-$_: $each" } 0 .. $workers - 1), 'they are spread evenly');
is(join(' ', map { server_of($_) } reverse @clients), join(' ', reverse @first), 'each stays where it is');
# who comes goes where least is to do: to the one whose clients have gone
my ($gone, @left) = ('worker-1');
for my $i (0 .. $#clients) { $first[$i] eq $gone ? close $clients[$i]{socket} : push @left, $i; }
wait_for('them to go', sub { $proxy->console('SHOW STATUS') =~ /^sessions\|@{[ 1 + @left ]}$/m });
is(server_of(Walcrypt::Wire->begin($proxy, 'blue')), $gone, 'a new one goes where there is room');
is(server_of($clients[ $left[0] ]), $first[ $left[0] ], '... and who was there stays');
undef @clients;
is($proxy->stop, 0, 'the proxy stops in good order');
done_testing();
