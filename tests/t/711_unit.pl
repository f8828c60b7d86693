# Goal: the system calls that the unit of the proxy lets through are all that it makes, with the processes that fetch its cluster key: at
# its start, in a base backup, a stream, a reload and its end. systemd itself cannot run here, so strace says which calls those are, and
# systemd-analyze which the unit allows.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Strace;

needs_strace();
# what SystemCallFilter= names: calls, and sets of calls
sub calls
{
	my ($set) = @_;
	return map { /^\s+(@\S+)/ ? calls($1) : /^\s+([a-z]\w*)/ ? $1 : () } split /\n/, `systemd-analyze syscall-filter $set`;
}
my $unit = slurp_file("$Walcrypt::prefix/share/walcrypt/walcrypt-proxy.service.sample");
my ($filter) = $unit =~ /^SystemCallFilter=(.*)$/m or die "the unit has no filter\n";
my %allowed = map { $_ => 1 } map { /^@/ ? calls($_) : $_ } split ' ', $filter;
cmp_ok(scalar keys %allowed, '>', 200, 'the unit lets calls through');
ok(!$allowed{$_}, "but not $_") for qw(ptrace mount init_module bpf);

my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->start;
my $trace = "$PostgreSQL::Test::Utils::tmp_check/calls";
my $kek = kek_file("$PostgreSQL::Test::Utils::tmp_check/kek");
my $proxy = Walcrypt::Proxy->new(kek => $kek, kek_uri => "command:cat $kek", nodes => { red => { conninfo => $red->connstr_for_proxy }, blue => { keyset => 'blue' } },
	settings => { http_listen => '127.0.0.1:' . PostgreSQL::Test::Cluster::get_free_port() });
$proxy->key_init('blue');
$proxy->start(wrapper => [ 'strace', '--daemonize', '--follow-forks', '--quiet=all', '--seccomp-bpf', '-c', '-U', 'name', '-o', $trace ]);
my $blue = Walcrypt::Node->new('blue');
$blue->init_from_proxy($proxy, 'blue');
$blue->start;
$red->safe_psql('postgres', 'CREATE TABLE t AS SELECT generate_series(1, 1000) AS i');
$red->wait_for_catchup($blue);
is($blue->safe_psql('postgres', 'SELECT count(*) FROM t'), 1000, 'a standby streams through a proxy whose calls are traced');
is($proxy->console('RELOAD'), 'RELOAD', 'it reads everything again');
$blue->stop;
is($proxy->stop, 0, 'and ends');

wait_for_file_line($trace, qr/^\s*total\s*$/m);    # its foot
my @made = grep { $_ ne "syscall" && $_ ne "total" } map { /^\s*([a-z]\w+)\s*$/ ? $1 : () } split /\n/, slurp_file($trace);    # without head and foot
my %made = map { $_ => 1 } @made;
ok($made{$_}, "the trace has $_") for qw(execve mlock epoll_wait sendto accept4);
is(join(' ', grep { !$allowed{$_} } sort keys %made), '', 'no call is made that the unit does not let through');
done_testing();
