# The proxy built with the thread sanitizer is told to reload in a loop while sessions come and go on all its threads: no data race,
# nobody is turned away, and every configuration that was replaced is given back.
use strict;
use warnings;

BEGIN { $ENV{TSAN_OPTIONS} = 'halt_on_error=0:exitcode=66:second_deadlock_stack=1'; }
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Wire;

my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "max_wal_senders = 30\nmax_connections = 60\nwal_keep_size = 512MB\n");
$red->start;
my $proxy = Walcrypt::Proxy->new(
	nodes => { red => { conninfo => $red->connstr_for_proxy }, (map { ($_ => { keyset => $_ }) } qw(blue green)), plain => { keyset => 'none', allow_clear => 'on' },
		map { ("late$_" => { keyset => 'auto' }) } 0 .. 3 },
	settings => { workers => 4 });
$proxy->key_init($_) for qw(blue green);
{
	local $Walcrypt::proxy = "$ENV{WALCRYPT_PREFIX}-tsan/bin/walcrypt-proxy";
	$proxy->start;
}

# One that streams throughout, and clients that do a command, cancel, or only begin, and go, politely or not.
my $archive = IPC::Run::start([ 'pg_receivewal', '-D', PostgreSQL::Test::Utils::tempdir(), '-d', $proxy->connstr('blue') . ' application_name=archive', '--no-loop' ], '<', \undef, '>&', \my $said);
my $stop = PostgreSQL::Test::Utils::tempdir() . '/stop';
sub client
{
	my ($n) = @_;
	my @users = qw(blue green plain);
	my $served = 0;
	for (my $round = $n; !-e $stop || $served <= 3; $round++) {
		my $c = Walcrypt::Wire->connect($proxy);
		$c->startup(user => $users[ $round % 3 ], replication => 'true');
		next if $round % 7 == 0;    # gone in the middle of the start
		my ($seen, $last) = $c->until('ZE');
		die "client $n, round $round: $seen" . join(' ', Walcrypt::Wire::fields($last)) unless $seen =~ /Z$/;
		$c->send('Q', $round % 5 == 0 ? "START_REPLICATION PHYSICAL 0/1000000\0" : "IDENTIFY_SYSTEM\0");
		next if $round % 11 == 0;
		($seen, $last) = $c->until('ZEd');
		die "client $n, round $round: $seen" . join(' ', Walcrypt::Wire::fields($last)) unless $seen =~ /[Zd]$/;
		$served++;
		$c->send('X', '') if $round % 2;
	}
	return;
}
my @clients;
for my $n (1 .. 6) {
	my $pid = fork() // die "fork: $!";
	if ($pid == 0) {
		eval { client($n) };
		print STDERR $@ if $@;
		POSIX::_exit($@ ? 1 : 0);
	}
	push @clients, $pid;
}

# Clients that have asked for something.
sub begin
{
	my ($node, $command, $count) = @_;
	my @wires = map { Walcrypt::Wire->connect($proxy) } 1 .. $count;
	$_->startup(user => $node, replication => 'true') for @wires;
	$_->until('ZE') for @wires;
	$_->send('Q', "$command\0") for @wires;
	return @wires;
}
sub reloads { return scalar(() = $proxy->log =~ /reloaded; sessions/g); }
my $before = $proxy->log_size;
for my $n (1 .. 40) {
	$proxy->{settings}{connect_timeout} = 10 + $n % 3 . 's';
	$proxy->write_conf;
	kill('HUP', $proxy->pid);
	kill('HUP', $proxy->pid) if $n % 4 == 0;
	# keys that are made while the configuration is read are there under the new one, too
	my $late = 'late' . int($n / 10);
	my @late = $n % 10 == 5 ? begin($late, "BASE_BACKUP (LABEL 'x', CHECKPOINT 'fast', WAIT 'false', MANIFEST 'no')", 2) : ();
	$proxy->console($n % 2 ? 'SHOW NODES' : 'SHOW CONFIG');
	wait_for("reload $n", sub { reloads() >= $n });
	is(($_->message)[0], 'T', "reload $n: a base backup whose keys are made begins") for @late;
	like($proxy->console('SHOW KEYS'), qr/^$late\|relation\|/m, '... SHOW KEYS has them') if @late;
}
for my $node (map { "late$_" } 0 .. 3) {
	my ($c) = begin($node, 'START_REPLICATION PHYSICAL 0/1000000', 1);
	is(($c->until('WE'))[0], 'W', "$node can stream");
}
append_to_file($stop, '');
for my $pid (@clients) {
	waitpid($pid, 0);
	is($? >> 8, 0, 'a client was served in every round');
}
cmp_ok(reloads(), '>=', 40, 'reloaded in a loop');
is($red->safe_psql('postgres', "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'archive'"), '1', 'the stream that was there goes on');
$archive->signal('TERM');
$archive->finish;
wait_for('the sessions to end', sub { $proxy->console('SHOW STATUS') =~ /^sessions\|1$/m });
is($proxy->stop, 0, 'the proxy ends with exit 0');
unlike($proxy->log, qr/WARNING: ThreadSanitizer/, 'no data race');
done_testing();
