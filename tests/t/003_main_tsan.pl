# The proxy built with the thread sanitizer: several sessions over its worker threads at once, console, page, metrics and reload beside them.
use strict;
use warnings;

BEGIN { $ENV{TSAN_OPTIONS} = 'halt_on_error=0:exitcode=66:second_deadlock_stack=1'; }
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Console;

my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->start;
my $port = PostgreSQL::Test::Cluster::get_free_port();
my %nodes = map { ($_ => { keyset => $_ }) } qw(blue green teal);
my $proxy = Walcrypt::Proxy->new(nodes => { red => { conninfo => $red->connstr_for_proxy }, %nodes }, settings => { workers => 3, http_listen => "127.0.0.1:$port" });
$proxy->key_init($_) for sort keys %nodes;
{
	local $Walcrypt::proxy = "$ENV{WALCRYPT_PREFIX}-tsan/bin/walcrypt-proxy";
	$proxy->start;
}

my $dir = $PostgreSQL::Test::Utils::tmp_check . '/tsan';
mkdir $dir;
my @running;
for my $name (sort keys %nodes) {
	mkdir "$dir/wal_$name";
	$red->safe_psql('postgres', "SELECT pg_create_physical_replication_slot('wal_$name', true)");
	push @running, IPC::Run::start([ 'pg_receivewal', '-D', "$dir/wal_$name", '-d', $proxy->connstr($name), '--no-loop', '-S', "wal_$name" ], '<', \undef, '>&', \my $o1);
	push @running, IPC::Run::start([ 'pg_basebackup', '-D', "$dir/bk_$name", '-d', $proxy->connstr($name), '--checkpoint=fast', '--no-sync' ],
		'<', \undef, '>&', \my $o2);
}
for my $round (1 .. 10) {
	$red->safe_psql('postgres', "CREATE TABLE t$round AS SELECT i, repeat('x', 200) FROM generate_series(1, 2000) i; SELECT pg_switch_wal()");
	$proxy->console('SHOW SESSIONS');
	is((http_get($port, $_))[0], 200, "round $round: $_") for qw(/ /metrics /status.json /history.json);
	kill('HUP', $proxy->pid);
}
wait_for('lag to be noted', sub { (http_get($port, '/history.json'))[2] =~ /\[\d+,\d+,/ });
for my $name (sort keys %nodes) {
	wait_for("WAL of $name", sub { my @f = glob("$dir/wal_$name/*"); @f >= 9 });
	wait_for("backup of $name", sub { -f "$dir/bk_$name/backup_manifest" });
	command_ok([ 'pg_verifybackup', '-n', "$dir/bk_$name" ], "backup of $name");
}
$_->signal('INT') for @running;
$_->finish for @running;
is($proxy->stop, 0, 'the proxy ends with exit 0');
unlike($proxy->log, qr/WARNING: ThreadSanitizer/, 'no data race');
done_testing();
