# Goal: a stop lets commands under way finish, with the WAL stream that belongs to a base backup, for drain_timeout at most; everybody
# else is told at once, and new connections are refused; a second signal ends it at once.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::Cluster;
use Test::More;
use Time::HiRes qw(time);
use Walcrypt;
use Walcrypt::Wire;

my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "wal_keep_size = 256MB\n");
$red->start;
$red->safe_psql('postgres', "CREATE TABLE t AS SELECT i, repeat(md5(i::text), 10) AS text FROM generate_series(1, 20000) i");
my $proxy = Walcrypt::Proxy->new(nodes => { red => { conninfo => $red->connstr_for_proxy }, blue => { keyset => 'blue' }, green => { keyset => 'blue' } });
$proxy->key_init('blue');
my $dir = PostgreSQL::Test::Utils::tempdir();

sub begin { return Walcrypt::Wire->begin($proxy, @_); }
# What ends it, and when.
sub told
{
	my ($c, $what) = @_;
	my ($seen, $body) = $c->until('E');
	my %why = Walcrypt::Wire::fields($body);
	is("$why{S} $why{C}", 'FATAL 57P01', "$what is told that the proxy stops");
	ok($c->closed, '... and closed');
	return;
}
sub gone { my ($pid) = @_; return waitpid($pid, POSIX::WNOHANG()) == $pid; }
sub ends
{
	my ($what) = @_;
	my $pid = $proxy->pid;
	my $status;
	wait_for("the proxy to end", sub { return 0 if waitpid($pid, POSIX::WNOHANG()) != $pid; $status = $?; 1 });
	$proxy->{pid} = undef;
	return is($status, 0, "$what: exit 0");
}
sub backup
{
	my ($name, @options) = @_;
	my $said = '';
	my $run = IPC::Run::start([ 'pg_basebackup', '-D', "$dir/$name", '-d', $proxy->connstr('blue'), '--checkpoint=fast', '--no-sync', @options ], '<', \undef, '>&', \$said);
	return ($run, \$said);
}
my $lsn = $red->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');

# 1 a slow base backup with its WAL stream goes on; others do not
$proxy->start;
my ($run, $said) = backup('whole', '-X', 'stream', '--max-rate=8M');
wait_for('both of its sessions', sub { my $all = $proxy->console('SHOW SESSIONS'); $all =~ /\|backup\|BASE_BACKUP\|/ && $all =~ /\|stream\|START_REPLICATION\|/ });
# it takes nothing while we look, so that it is not done before
$run->signal('STOP');
my $standby = begin('green', "START_REPLICATION PHYSICAL $lsn TIMELINE 1", 'W');
my $other = begin('blue', "START_REPLICATION PHYSICAL $lsn TIMELINE 1", 'W');
my $idle = begin('blue');
my $offset = $proxy->log_size;
kill('TERM', $proxy->pid);
told($standby, 'a stream of another node');
told($other, 'a stream of the same node, but another application');
told($idle, 'an idle session');
ok(!eval { Walcrypt::Wire->connect($proxy); 1 }, 'nobody new gets in');
ok(!gone($proxy->pid), 'the proxy is there while the backup is');
$run->signal('CONT');
ok($run->finish, 'the backup is finished') or diag($$said);
ends('then it stops');
like($proxy->log($offset), qr/finishes its BASE_BACKUP before the proxy stops/, 'the log says what it waited for');
like($proxy->log($offset), qr/finishes its START_REPLICATION before the proxy stops/, '... the WAL stream of the backup too');
command_ok([ 'pg_verifybackup', '-n', "$dir/whole" ], 'pg_verifybackup is content with it');

# 2 drain_timeout
$proxy->{settings}{drain_timeout} = '1s';
$proxy->write_conf;
$proxy->start;
($run, $said) = backup('cut', '-X', 'none', '--max-rate=32k');
wait_for('its session', sub { $proxy->console('SHOW SESSIONS') =~ /\|backup\|BASE_BACKUP\|/ });
$offset = $proxy->log_size;
my $start = time();
is($proxy->console('SHUTDOWN'), 'SHUTDOWN', 'SHUTDOWN on the console');
ends('after drain_timeout');
cmp_ok(time() - $start, '>=', 1, 'not before it was over');
ok(!$run->finish, 'the backup was cut off');
ok(!-e "$dir/cut", '... and nothing is left of it');
like($proxy->log($offset), qr/WARNING:  drain_timeout is over/, 'the log says so');

# 3 a second signal
$proxy->{settings}{drain_timeout} = '10min';
$proxy->write_conf;
$proxy->start;
($run, $said) = backup('twice', '-X', 'none', '--max-rate=32k');
wait_for('its session', sub { $proxy->console('SHOW SESSIONS') =~ /\|backup\|BASE_BACKUP\|/ });
kill('INT', $proxy->pid);
wait_for('the log', sub { $proxy->log =~ /SIGINT: stopping, commands under way have 600 s/ });
select(undef, undef, undef, 0.5);
ok(!gone($proxy->pid), 'one signal waits');
$start = time();
kill('INT', $proxy->pid);
ends('a second one');
cmp_ok(time() - $start, '<', 60, '... at once');
ok(!$run->finish, 'the backup was cut off');

# 4 a stream that begins while the proxy stops: it had a command under way, and has none now
$proxy->start;
my $late = begin('green');
my $upstream = $red->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE application_name = 'test_green'");
kill('STOP', $upstream);
$late->send('Q', "START_REPLICATION PHYSICAL $lsn TIMELINE 1\0");
wait_for('the command', sub { $proxy->console('SHOW SESSIONS') =~ /\|command\|START_REPLICATION\|/ });
$offset = $proxy->log_size;
kill('TERM', $proxy->pid);
wait_for_file_line($proxy->logfile, qr/finishes its START_REPLICATION before the proxy stops/, $offset);
kill('CONT', $upstream);
told($late, 'a stream that begins meanwhile');
ends('no later');

# 5 drain_timeout = 0
$proxy->{settings}{drain_timeout} = 0;
$proxy->write_conf;
$proxy->start;
($run, $said) = backup('none', '-X', 'none', '--max-rate=32k');
wait_for('its session', sub { $proxy->console('SHOW SESSIONS') =~ /\|backup\|BASE_BACKUP\|/ });
is($proxy->stop, 0, 'drain_timeout = 0 does not wait');
ok(!$run->finish, 'the backup was cut off');
ok(!-e "$dir/none", '... and nothing is left of it');
done_testing();
