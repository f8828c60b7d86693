# Soak: three nodes under different relation keys and one proxy carry a load while everything that can fails: processes are killed, links
# fall silent, disks fill up, the key server goes away, keys change, the primary moves. After each fault the cluster must come back by itself
# or by the commands that docs/ names; at the end every acknowledged commit must be there, once, and every page and index be whole.
#
# SOAK_SECONDS: how long (make soak: an hour; here, in make check: each fault once). SOAK_SEED: which faults come, and when.
use strict;
use warnings;
use IPC::Run ();
use List::Util qw(first);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use Walcrypt;
use Walcrypt::Relay;
use Walcrypt::Vault;
use Walcrypt::Writers;

my $seconds = $ENV{SOAK_SECONDS} // 0;
my $seed = $ENV{SOAK_SEED} // ($seconds ? time() % 1_000_000 : 1);
srand($seed);
sub say_so { my ($text) = @_; return $seconds ? diag($text) : note($text); }
say_so("seed $seed");
my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/soak';
mkdir $tmp, 0700;
my $begun = time();

# three nodes, each under its own relation key, a key server, a relay through which standbys reach the proxy
my $vault = Walcrypt::Vault->new(name => 'soak', tls => 1);
$vault->enable('secret', 'secrets', 'kv-v2');
sub kek { my ($n) = @_; return $vault->uri('vault-kv', "secret/walcrypt-$n"); }
my $kek = 1;
my @names = qw(blue green amber);
my %node = map { $_ => Walcrypt::Node->new($_) } 'red', @names;
my $red = delete $node{red};
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "wal_retrieve_retry_interval = 100ms\nwal_keep_size = 1GB\nmax_wal_size = 128MB\nshared_buffers = 16MB\nwal_receiver_status_interval = 1s\nwal_receiver_timeout = 10s\nwal_sender_timeout = 10s\nmax_connections = 40\nlog_statement = none\nlog_replication_commands = off\n");
$red->start;
my $proxy = Walcrypt::Proxy->new(kek_uri => kek(1), settings => { wal_receiver_timeout => '10s' },
	nodes => { red => { conninfo => $red->connstr_for_proxy }, map { $_ => { keyset => $_ } } @names });
$proxy->key_init('blue', '--create-kek');
$proxy->key_init($_) for qw(green amber);
$proxy->start;
my $relay = Walcrypt::Relay->new($proxy);
$relay->start;
my $bin = "$Walcrypt::ctl";
my @conf = ('--config', $proxy->conf);

sub run { my (@command) = @_; my $ran = IPC::Run::run(\@command, '<', \undef, '>', "$tmp/out", '2>', "$tmp/err"); return $ran; }
sub said { return join('', map { slurp_file("$tmp/$_") } qw(out err)); }
sub dir { return $node{ $_[0] }->data_dir; }
sub pg_ctl { my ($name, @what) = @_; return run($bin, 'exec', '-D', dir($name), @conf, '--', 'pg_ctl', '-w', '-D', dir($name), '-l', "$tmp/$name.log", @what); }
sub start { my ($name) = @_; return pg_ctl($name, 'start') || die "$name does not start: " . said(); }
sub sql { my ($name, $sql) = @_; my ($out) = (''); IPC::Run::run([ 'psql', '-XAtq', '-h', $node{$name}->host, '-p', $node{$name}->port, '-d', 'postgres', '-c', $sql ], '<', \undef, '>', \$out, '2>', "$tmp/psql"); chomp $out; return $out; }
sub pid { my ($name) = @_; my $file = dir($name) . '/postmaster.pid'; return -e $file ? (split /\n/, slurp_file($file))[0] : 0; }
sub kill9 { my ($name) = @_; my @pids = (pid($name), split(' ', `pgrep -P @{[ pid($name) ]}`)); kill('KILL', $pids[0]); wait_for("the end of $name", sub { !grep { kill(0, $_) } @pids }); return; }
sub rows_of { my ($list) = @_; return map { [ split /\|/ ] } split(/\n/, $list); }

# A standby, from a base backup through the proxy.
sub build
{
	my ($name) = @_;
	system('rm', '-rf', dir($name));
	run($bin, 'build', $name, '-D', dir($name), @conf, '--checkpoint=fast', '--no-sync') or die "build $name: " . said();
	$node{$name}->append_conf('postgresql.auto.conf', 'port = ' . $node{$name}->port . "\nunix_socket_directories = '" . $node{$name}->host . "'\ncluster_name = '$name'\nprimary_conninfo = 'host=127.0.0.1 port="
		. $relay->port . " user=$name application_name=$name'\n");
	return start($name);
}
my $primary = 'blue';
$proxy->{nodes}{$_}{datadir} = dir($_) for @names;
$proxy->write_conf;
$proxy->restart;
build('blue');
wait_for('blue', sub { sql('blue', "SELECT pg_last_wal_replay_lsn() >= '" . $red->lsn('insert') . "'") eq 't' });
$red->stop;
run('pg_ctl', 'promote', '-w', '-D', dir('blue')) or die said();
$proxy->{nodes} = { map { $_ => { keyset => $_, datadir => dir($_), conninfo => $node{$_}->connstr_for_proxy } } @names };
$proxy->write_conf;
$proxy->restart;
build($_) for qw(green amber);
sql($_, "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (blue, green, amber)'"), sql($_, 'SELECT pg_reload_conf()') for @names;

my $conninfo = 'connect_timeout=5 target_session_attrs=read-write dbname=postgres host=' . join(',', map { $node{$_}->host } @names) . ' port=' . join(',', map { $node{$_}->port } @names);
run('pgbench', '-i', '-q', '-s', 2, $conninfo) or die said();
$node{blue}->_update_pid(1);
my $writers = Walcrypt::Writers->new(2, map { $node{$_} } @names);
$writers->start;
my $load = fork() // die;
if ($load == 0) {
	POSIX::setpgid(0, 0);
	exec('sh', '-c', 'while :; do pgbench -n -c 2 -R 60 -T 3600 "$0" >/dev/null 2>&1 </dev/null; sleep 0.2; done', $conninfo) or POSIX::_exit(1);
}
POSIX::setpgid($load, $load);
END { my $status = $?; kill('KILL', -$load) if $load; for my $name (@names) { my $pid = eval { pid($name) }; kill('QUIT', $pid) if $pid; } $? = $status; }

sub standbys { return grep { $_ ne $primary } @names; }
sub any { return $_[ int rand @_ ]; }
sub streams { my ($name) = @_; return $proxy->console('SHOW STANDBYS') =~ /^\Q$name\E\|\Q$name\E\|[^|]*\|streams\|\d+\|\Q$primary\E\|/m; }
sub settle
{
	my ($what) = @_;
	for my $name (@names) {
		wait_for("$what: $name to be up", sub { sql($name, 'SELECT 1') eq '1' });
	}
	for my $name (standbys()) { wait_for("$what: $name to stream from $primary", sub { streams($name) }); }
	$writers->wait_for_commits(20);
	return;
}
sub rotate
{
	my ($to) = @_;
	my @command = ($bin, 'rotate', @conf, '--to', $to, '--old', 'reencrypt', '--timeout', 60);
	return @command;
}

my %fault = (
	'proxy killed' => sub { $proxy->kill9; unlink $proxy->host . '/.s.PGSQL.' . $proxy->port; $proxy->start; },
	'proxy stopped and continued' => sub { kill('STOP', $proxy->pid); sleep(1 + rand 3); kill('CONT', $proxy->pid); },
	'proxy restarted' => sub { $proxy->restart; },
	'standby killed' => sub { my $name = any(standbys()); kill9($name); start($name); },
	'server process killed' => sub {
		my $name = any(@names);
		my @pids = split ' ', `pgrep -P @{[ pid($name) ]}`;
		kill('KILL', any(@pids));
		# a standby that loses its startup process ends; any other server begins anew by itself
		sleep(1);
		wait_for("$name to be up or down", sub { !pid($name) || sql($name, 'SELECT 1') eq '1' });
		start($name) if !pid($name);
	},
	'primary killed' => sub { kill9($primary); start($primary); },
	'primary lost' => sub {
		my $lost = $primary;
		kill9($lost);
		wait_for('the streams to end', sub { $proxy->console('SHOW STANDBYS') !~ /\|streams\|\d+\|\Q$lost\E\|/ });
		# what is still on its way would make a standby longer than the one that is taken now
		for my $name (standbys()) { wait_for("$name to have taken all", sub { sql($name, "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'") eq '0' }); }
		# the one that has less is refused; what was still on its way may have made it that since
		my $best = first { run($bin, 'failover', @conf, '--to', $_) } standbys(), standbys();
		die 'failover: ' . said() if !defined $best;
		$primary = $best;
		build($lost);
	},
	'link silent' => sub { $relay->freeze; sleep(1 + rand 5); $relay->thaw; },
	'link cut' => sub { $relay->cut; sleep(rand 3); $relay->start; },
	'key server away' => sub {
		$vault->stop;
		my $name = any(standbys());
		kill9($name);
		pg_ctl($name, 'start') and die "$name has started without the key server\n";
		$writers->wait_for_commits(20);
		$vault->start;
		$vault->unseal;
		wait_for("$name to start", sub { pg_ctl($name, 'start') });
	},
	'disk full' => sub {
		my $name = any(standbys());
		pg_ctl($name, 'stop', '-m', 'fast') or die said();
		my $log = "$tmp/$name.log";
		my $offset = -s $log;
		run('sh', '-c', 'ulimit -f 8192; exec "$@"', 'sh', $bin, 'exec', '-D', dir($name), @conf, '--', 'pg_ctl', '-w', '-t', 5, '-D', dir($name), '-l', $log, 'start');
		sql($primary, 'SELECT pg_switch_wal()');
		wait_for("$name to run out of space", sub { sql($primary, 'SELECT pg_switch_wal()'); slurp_from($log, $offset) =~ /File too large/ });
		run('pg_ctl', 'stop', '-m', 'immediate', '-D', dir($name));
		start($name);
	},
	'cluster key changed' => sub {
		my $new = kek(++$kek);
		run($bin, qw(key alter --all), @conf, '--new-kek', $new, '--create-kek') or die 'key alter: ' . said();
		for my $name (@names) { run($bin, qw(key alter -D), dir($name), @conf, '--new-kek', $new) or die "key alter -D $name: " . said(); }
		$proxy->{kek_uri} = $new;
		$proxy->write_conf;
		kill('HUP', $proxy->pid);
	},
	'base backup cut off' => sub {
		my $backup = IPC::Run::start([ 'pg_basebackup', '-D', "$tmp/cut", '-d', $proxy->connstr(any(@names)), '--checkpoint=fast', '--no-sync', '--max-rate=2M' ], '<', \undef, '>', "$tmp/out", '2>', "$tmp/err");
		sleep(0.5 + rand 2);
		$backup->kill_kill;
		system('rm', '-rf', "$tmp/cut");
	},
	'rotation' => sub {
		my $to = any(standbys());
		run(rotate($to)) or die 'rotate: ' . said();
		$primary = $to;
	},
	'rotation killed and resumed' => sub {
		my $to = any(standbys());
		if (!run('timeout', '-s', 'KILL', sprintf('%.2f', 0.3 + rand 4), rotate($to))) {
			if (-e $proxy->keystore . '/switchover.json') {
				my $resumed;
				# a re-encryption that was killed, too, has its lock until the last of its threads is gone
				wait_for('the end of the re-encryption', sub { $resumed = run($bin, 'rotate', @conf, '--resume'); $resumed || said() !~ /another walcrypt-ctl works on/ });
				$resumed or die 'resume: ' . said();
			} else {
				wait_for("$to again", sub { sql($to, 'SELECT 1') eq '1' || pg_ctl($to, 'start') });
				wait_for("$to to stream again", sub { streams($to) });
				run($bin, qw(key repair), @conf, @$_) or die said() for [ '--all' ], map { [ '-D', dir($_) ] } @names;
				run(rotate($to)) or die 'rotate again: ' . said();
			}
		}
		$primary = $to;
	});

# proxies do not grow: resident memory of each, at each fault
my (%memory, %count, @problems);
my $end = $begun + $seconds;
my @todo = sort { rand() <=> 0.5 } sort keys %fault;
while (@todo || time() < $end) {
	my $what = shift @todo // any(sort keys %fault);
	my $from = time();
	eval { settle("before: $what"); $fault{$what}->(); settle("after: $what"); 1 } or do { push @problems, "$what: $@"; last; };
	$count{$what}++;
	push @{ $memory{ $proxy->pid } }, rss_kib($proxy->pid);
	say_so(sprintf('%6.1f s  %-30s %5.1f s, primary %s, proxy %d kB', time() - $begun, $what, time() - $from, $primary, $memory{ $proxy->pid }[-1]));
}
is("@problems", '', 'the cluster came back after each fault') or diag(map { "--- $_\n" . substr(slurp_from("$tmp/$_.log"), -2000) } @names);

if (@problems) { done_testing(); exit; }

# the account
kill('KILL', -$load);
waitpid($load, 0);
undef $load;
$writers->stop;
wait_for('the standbys', sub { my $lsn = sql($primary, 'SELECT pg_current_wal_insert_lsn()'); 2 == grep { sql($_, "SELECT pg_last_wal_replay_lsn() >= '$lsn'") eq 't' } standbys() });
my ($lost, $twice) = $writers->account($node{$primary});
my $acked = sql($primary, 'SELECT count(*) FROM ' . $writers->table);
is(sql($primary, 'SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history) AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(delta) FROM pgbench_history)'), 't', 'the accounts of pgbench agree');
for my $name (standbys()) {
	is(sql($name, 'SELECT count(*), sum(hashtext(w::text)) FROM ' . $writers->table . ' w'), sql($primary, 'SELECT count(*), sum(hashtext(w::text)) FROM ' . $writers->table . ' w'), "$name has the same rows");
}
my $history = sql($primary, 'SELECT count(*) FROM pgbench_history');
$node{$_}->_update_pid(1), $node{$_}->use_layer($proxy->kek_uri) for @names;
$node{$primary}->check_integrity("$primary, the primary", restart => 1);
$node{$_}->check_integrity($_, primary => $node{$primary}) for standbys();
$node{$primary}->stop;
for my $name (@names) { ok(run($bin, 'verify', '-D', dir($name), @conf), "$name: every page and WAL page is whole") or diag(said()); }
my ($most) = sort { $b <=> $a } map { @$_ } values %memory;
cmp_ok($most, '<', 64 * 1024, "a proxy held $most kB at most");
for my $list (grep { @$_ >= 8 } values %memory) {
	my @sorted = @$list;
	my ($early) = sort { $b <=> $a } @sorted[ 0 .. $#sorted / 2 ];
	my ($late) = sort { $b <=> $a } @sorted[ $#sorted / 2 .. $#sorted ];
	cmp_ok($late, '<=', 1.25 * $early + 4096, "it does not grow: $early kB in its first half, $late kB in its second");
}
my $faults = 0;
$faults += $_ for values %count;
my $report = sprintf("seed %d, %.0f s, %d faults, %d commits of the writers checked, %d of pgbench, lost: %d, twice: %d, proxy at most %.1f MiB\n", $seed, time() - $begun, $faults, $acked, $history, $lost, $twice, $most / 1024)
  . join('', map { sprintf("%5d  %s\n", $count{$_}, $_) } sort keys %count);
say_so($report);
$proxy->stop;
done_testing();
use POSIX ();
