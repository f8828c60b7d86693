# Goal: 200 sessions that stream at once; a client that stops while a stream or its session ends; an upstream that dies in the middle
# of a base backup, in each way that one can: the client is told, and never gets a backup that looks complete.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::Cluster;
use Test::More;
use Time::HiRes qw(time sleep);
use Walcrypt;
use Walcrypt::Relay;
use Walcrypt::Wire;

my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "fsync = off\nwal_keep_size = 256MB\nmax_wal_senders = 230\nmax_connections = 240\nautovacuum = off\n");
$red->start;
$red->safe_psql('postgres', "CREATE TABLE t AS SELECT i, repeat(md5(i::text), 28) AS text FROM generate_series(1, 30000) i; CHECKPOINT");
my $relay = Walcrypt::Relay->new($red);
$relay->start;
my $me = (getpwuid($<))[0];
my $proxy = Walcrypt::Proxy->new(nodes => { red => { conninfo => $red->connstr_for_proxy }, blue => { keyset => 'blue' }, far => { conninfo => 'host=127.0.0.1 port=' . $relay->port . " user=$me", keyset => 'none' },
	green => { keyset => 'blue', upstream => 'far' } }, settings => { wal_receiver_timeout => '20s', connect_timeout => '60s' });
# blue takes red by its name, green the same server through a relay that can break
$proxy->{nodes}{blue}{upstream} = 'red';
$proxy->write_conf;
$proxy->key_init('blue');
$proxy->start;
sub begin { return Walcrypt::Wire->begin($proxy, @_); }
sub sessions { return $proxy->console('SHOW STATUS') =~ /^sessions\|(\d+)$/m ? $1 : die; }

# 1 two hundred at once
my $lsn = $red->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
my $before = rss_kib($proxy->pid);
my @all = map { my $c = Walcrypt::Wire->connect($proxy); $c->startup(user => 'blue', replication => 'true'); $c } 1 .. 200;
is(scalar(grep { ($_->until('ZE'))[0] =~ /Z$/ } @all), 200, '200 clients that connect at once are served');
$_->send('Q', "START_REPLICATION PHYSICAL $lsn TIMELINE 1\0") for @all;
is(scalar(grep { ($_->until('WE'))[0] =~ /W$/ } @all), 200, 'all of them stream');
$red->safe_psql('postgres', "SELECT pg_logical_emit_message(false, 'x', repeat('y', 20000))");
my %same;
for my $c (@all) {
	my $wal = '';
	while (length($wal) < 20000) { my ($type, $body) = $c->message or last; $wal .= substr($body, 25) if $type eq 'd' && $body =~ /^w/; }
	$same{ substr($wal, 0, 20000) }++;
}
is(join(' ', values %same), '200', 'and get the same bytes');
my $each = (rss_kib($proxy->pid) - $before) / 200;
cmp_ok($each, '<', 1024, "a session takes $each KiB");
close $_->{socket} for @all;
wait_for('them to end', sub { sessions() == 1 });
pass('and they are gone when their clients are');

# 2 a client that stops when its stream ends: it is given fifteen seconds, then told
my $offset = $proxy->log_size;
my $c = begin('blue', "START_REPLICATION PHYSICAL $lsn TIMELINE 1", 'W');
my $stopping = IPC::Run::start([ 'pg_ctl', '-D', $red->data_dir, '-m', 'fast', 'stop' ], '<', \undef, '>&', \my $stopped);
# a server that shuts down waits until what it sent is flushed
my $last = '';
while (my ($type, $body) = $c->message) {
	$last = $type;
	last if $type ne 'd';
	my ($kind, $at) = unpack('aQ>', $body);
	$at += length($body) - 25 if $kind eq 'w';
	$c->send('d', 'r' . pack('Q>Q>Q>Q>C', $at, $at, 0, 0, 0));
}
is($last, 'c', 'the upstream shuts down: the stream is ended by CopyDone');
my $start = time();
ok($c->closed, 'a client that does not answer is closed');
cmp_ok(time() - $start, '<', 30, '... within its time');
like($proxy->log($offset), qr/the client did not end the stream in time/, '... and the log says why');
$stopping->finish;
$red->{_pid} = undef;
$red->start;

# 3 an upstream that dies in the middle of a base backup
my $dir = PostgreSQL::Test::Utils::tempdir();
sub walsender { return $red->safe_psql('postgres', "SELECT pid FROM pg_stat_replication WHERE state = 'backup' LIMIT 1"); }
my @deaths = (
	[ 'its walsender is terminated', 'blue', sub { $red->safe_psql('postgres', 'SELECT pg_terminate_backend(pid) FROM pg_stat_replication'); } ],
	[ 'its walsender is killed', 'blue', sub { kill('KILL', walsender()); wait_for('the server to go down', sub { !-e $red->data_dir . '/postmaster.pid' }); $red->{_pid} = undef; $red->start; } ],
	[ 'it stops at once', 'blue', sub { $red->stop('immediate'); $red->start; } ], [ 'it is shut down', 'blue', sub { $red->stop('fast'); $red->start; } ],
	[ 'its command is cancelled', 'blue', sub { $red->safe_psql('postgres', 'SELECT pg_cancel_backend(pid) FROM pg_stat_replication'); } ],
	[ 'the link to it breaks', 'green', sub { $relay->cut; $relay->start; } ]);
my $n = 0;
for my $death (@deaths) {
	my ($what, $user, $code) = @$death;
	# by hand: what the client sees
	my $by_hand = begin($user, "BASE_BACKUP (LABEL 'x', CHECKPOINT 'fast', WAIT 'false', MANIFEST 'yes', MAX_RATE 4096)", 'H');
	wait_for('some of it', sub { $by_hand->more(1); length($by_hand->{in}) > 500000 });
	my $offset = $proxy->log_size;
	my @runs;
	for my $how ([ '-F', 'p', '-X', 'none' ], [ '-F', 't', '-X', 'fetch' ]) {
		my $said = '';
		push @runs, [ "@$how", "$dir/b" . ++$n, \$said, IPC::Run::start([ 'pg_basebackup', '-D', "$dir/b$n", '-d', $proxy->connstr($user), '--checkpoint=fast', '--no-sync', '--max-rate=4M', @$how ], '<', \undef, '>&', \$said) ];
	}
	wait_for('all three', sub { (() = $proxy->console('SHOW SESSIONS') =~ /\|backup\|BASE_BACKUP\|/g) == 3 });
	$code->();
	my ($types, $body) = $by_hand->until('EZ');
	like($types, qr/^d*E$/, "$what: the client gets an ErrorResponse, and nothing that ends the backup before it");
	isnt({ Walcrypt::Wire::fields($body) }->{M} // '', '', '... with a reason: ' . ({ Walcrypt::Wire::fields($body) }->{M} // ''));
	for my $run (@runs) {
		my ($how, $path, $said, $handle) = @$run;
		ok(!$handle->finish, "pg_basebackup $how fails");
		ok(!-e $path, '... and leaves nothing') or diag($$said);
	}
	close $by_hand->{socket};
	wait_for('the sessions to end', sub { sessions() == 1 });
}
# 4 a client that takes nothing any more is ended in time, and its upstream is let go; one that takes a little, or answers, is not
$proxy->{settings}{client_stall_timeout} = '6s';
$proxy->write_conf;
$proxy->console('RELOAD');
sub client
{
	my ($name, $command, $stop, @options) = @_;
	my $wire = Walcrypt::Wire->connect($proxy);
	$wire->startup(user => 'blue', replication => 'true', application_name => $name, @options);
	$wire->until('Z');
	$wire->send('Q', "$command\0");
	$wire->until($stop);
	return $wire;
}
sub walsenders { return $red->safe_psql('postgres', q{SELECT coalesce(string_agg(application_name, ' ' ORDER BY application_name), '') FROM pg_stat_replication WHERE application_name ~ '^takes'}); }
my $all_of_it = "BASE_BACKUP (LABEL 'x', CHECKPOINT 'fast', WAIT 'false')";
$offset = $proxy->log_size;
$lsn = $red->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
my @timeout = (options => '-c wal_sender_timeout=8s');
my %takes = (none => client('takes none', $all_of_it, 'H'), some => client('takes some', $all_of_it, 'H'),
	wal => client('takes no wal', "START_REPLICATION PHYSICAL $lsn TIMELINE 1", 'W', @timeout), answers => client('takes and answers', "START_REPLICATION PHYSICAL $lsn TIMELINE 1", 'W', @timeout));
$red->safe_psql('postgres', "SELECT count(pg_logical_emit_message(false, 'x', repeat('y', 1000000))) FROM generate_series(1, 20)");
my ($until, $left) = (time() + 18, 'takes and answers takes some');
while (time() < $until || (time() < $until + 120 && walsenders() ne $left)) {
	$takes{some}->bytes(100000);
	$takes{answers}->send('d', pack('A Q> Q> Q> q> C', 'r', 0, 0, 0, 0, 0));
	sleep 0.2;
}
is(walsenders(), $left, 'who takes nothing and says nothing is gone upstream, who takes a little or answers is not');
like($proxy->log($offset), qr/session \d+ \(blue\).*: the client has taken nothing for 6 s/, 'the log says why: a base backup');
like($proxy->log($offset), qr/session \d+ \(blue\).*: the client has been silent for 8 s.*wal_sender_timeout/s, '... a stream');
delete @takes{qw(some answers)};
wait_for('them to end', sub { sessions() == 1 });
delete $proxy->{settings}{client_stall_timeout};

# 5 a client that takes nothing, not even the reason, does not hold up the end
$proxy->{settings}{drain_timeout} = '1s';
$proxy->write_conf;
$proxy->console('RELOAD');
$c = begin('blue', "BASE_BACKUP (LABEL 'x', CHECKPOINT 'fast', WAIT 'false')", 'H');
my $amount = -1;
wait_for('it to stand still', sub { my ($now) = $proxy->console('SHOW SESSIONS') =~ /\|backup\|BASE_BACKUP\|.*?\|(\d+)\|(?:\d+)\|20/; my $same = defined $now && $now == $amount; $amount = $now // -1; sleep 0.5; return $same; });
$start = time();
is($proxy->stop, 0, 'the proxy stops in good order');
cmp_ok(time() - $start, '<', 30, '... in time');
done_testing();
