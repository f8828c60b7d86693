# Goal: a service manager that speaks systemd's protocol is told when the proxy is ready, reloads and stops, and what it does; the
# watchdog is fed while every worker's loop goes round, and not when one hangs. (Played: the manager, by its socket; systemd itself
# cannot be had where the tests run.)
use strict;
use warnings;
use IO::Select;
use IO::Socket::UNIX;
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::Cluster;
use Socket qw(SOCK_DGRAM);
use Test::More;
use Time::HiRes qw(time);
use Walcrypt;
use Walcrypt::Strace;
use Walcrypt::Wire;

my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->start;
my $proxy = Walcrypt::Proxy->new(nodes => { red => { conninfo => $red->connstr_for_proxy }, blue => { keyset => 'blue' } }, settings => { drain_timeout => '2min' });
$proxy->key_init('blue');

my $path = File::Temp::tempdir('wcnXXXXXX', TMPDIR => 1, CLEANUP => 1) . '/notify';
my $manager = IO::Socket::UNIX->new(Local => $path, Type => SOCK_DGRAM) or die "$path: $!";
my @said;
sub heard
{
	my ($what) = @_;
	while (IO::Select->new($manager)->can_read(0)) { $manager->recv(my $data, 4096); push @said, split(/\n/, $data); }
	return defined $what ? scalar grep { $_ =~ $what } @said : 0;
}
sub hears { my ($what) = @_; wait_for("$what", sub { heard($what) }); return pass("the manager hears $what"); }

{
	local $ENV{NOTIFY_SOCKET} = $path;
	local $ENV{WATCHDOG_USEC} = 1200000;
	$proxy->start;
}
hears(qr/^READY=1$/);
hears(qr/^STATUS=0 sessions, 0 of them stream; paused: no$/);

@said = ();
kill('HUP', $proxy->pid);
hears(qr/^READY=1$/);
my @order = grep { /^(RELOADING|READY|MONOTONIC)/ } @said;
like("@order", qr/^RELOADING=1 MONOTONIC_USEC=\d+ READY=1$/, 'a reload begins and ends');
@said = ();
my $good = $proxy->{settings}{drain_timeout};
$proxy->{settings}{drain_timeout} = 'long';
$proxy->write_conf;
kill('HUP', $proxy->pid);
hears(qr/^STATUS=.*; the last reload failed: .*drain_timeout = "long"/);
is(scalar(grep { $_ eq 'READY=1' } @said), 1, '... it is ready all the same');
$proxy->{settings}{drain_timeout} = $good;
$proxy->write_conf;
$proxy->console('RELOAD');

@said = ();
my $c = Walcrypt::Wire->connect($proxy);
$c->startup(user => 'blue', replication => 'true');
$c->until('Z');
$proxy->console('PAUSE EXCEPT red');
hears(qr/^STATUS=1 sessions, 0 of them stream; paused: all but red$/);

# the watchdog
@said = ();
wait_for('the watchdog to be fed', sub { heard(qr/^WATCHDOG=1$/) >= 4 });
pass('the watchdog is fed while the loops go round');
my ($task) = grep { slurp_from("$_/comm") =~ /^worker-0$/ } glob('/proc/' . $proxy->pid . '/task/*');
my ($tid) = $task =~ m{(\d+)$};
# the system call that the loop sleeps in takes eight seconds longer
SKIP: {
	skip_without_strace(2, 'attach');
	my $strace = IPC::Run::start([ 'strace', '-p', $tid, '-e', 'trace=epoll_wait', '-e', 'inject=epoll_wait:delay_exit=8000000:when=1' ], '<', \undef, '>&', \my $traced);
	wait_for('strace', sub { $strace->pump_nb; $traced =~ /attached/ });
	# its next sleep is the one
	wait_for('silence', sub { my $n = heard(qr/^WATCHDOG=1$/); select(undef, undef, undef, 1.3); heard(qr/^WATCHDOG=1$/) == $n });
	pass('it is not fed while one hangs');
	my $n = heard(qr/^WATCHDOG=1$/);
	wait_for('it to be fed again', sub { heard(qr/^WATCHDOG=1$/) > $n });
	pass('it is fed again when the loop goes on');
	$strace->signal('INT');
	eval { $strace->finish };
}

@said = ();
my ($pid, $status) = ($proxy->pid, undef);
kill('TERM', $pid);
# a manager that does not read would hold it up
wait_for('it to stop', sub { heard(); return 0 if waitpid($pid, POSIX::WNOHANG()) != $pid; $status = $?; 1 });
$proxy->{pid} = undef;
is($status, 0, 'it stops');
hears(qr/^STOPPING=1$/);
hears(qr/^EXTEND_TIMEOUT_USEC=180000000$/);
hears(qr/^STATUS=stopping; /);

# the sample unit
SKIP: {
	skip 'there is no systemd-analyze here', 1 unless grep { -x "$_/systemd-analyze" } split(/:/, $ENV{PATH});
	my $unit = PostgreSQL::Test::Utils::tempdir() . '/walcrypt-proxy.service';
	my $text = slurp_file('conf/walcrypt-proxy.service');
	$text =~ s{/usr/local/bin/walcrypt-proxy}{$Walcrypt::proxy};
	append_to_file($unit, $text);
	my ($out, $err) = ('', '');
	IPC::Run::run([ 'systemd-analyze', 'verify', '--man=no', $unit ], '<', \undef, '>', \$out, '2>', \$err);
	is(join('', grep { /walcrypt-proxy\.service/ } map { "$_\n" } split(/\n/, $out . $err)), '', 'systemd finds nothing wrong with the sample unit');
}
done_testing();
