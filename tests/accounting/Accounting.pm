# What the keystream-accounting tests share: servers run under the tracer, relays on the wire, a load whose acknowledged
# transactions are remembered outside, and the accountant over all tapes (docs/testing-keystream.md).
use strict;
use warnings;

package Accounting;

use Exporter 'import';
use File::Basename qw(dirname);
use IPC::Run ();
use JSON::PP ();
use POSIX qw(WNOHANG);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(accountant events seeded_random);
our $tools = dirname(__FILE__);

# One stream of random numbers for a test; the seed is printed, and SEED=... repeats it.
sub seeded_random
{
	my $seed = $ENV{SEED} // time() * 1000 % 1000000;
	srand($seed);
	note("SEED=$seed repeats this run's random choices");
	return $seed;
}

# The accountant's verdict: (exit status, report).
sub accountant
{
	my @args = @_;
	my ($out, $err) = ('', '');
	IPC::Run::run([ 'python3', "$tools/accountant.py", @args ], '<', \undef, '>', \$out, '2>', \$err);
	my $rc = $? >> 8;
	die "accountant.py @args: exit $rc: $err" if $out eq '';
	note("accountant: $out");
	return ($rc, JSON::PP::decode_json($out));
}

# All tracers' lines of an events file, as hashes.
sub events
{
	my ($file) = @_;
	open(my $f, '<', $file) or return ();
	return map { JSON::PP::decode_json($_) } <$f>;
}

# A PostgreSQL::Test::Cluster node whose server runs under the tracer.
package Accounting::Server;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use POSIX qw(WNOHANG);

my @running;

# dir: where tapes and events go; env: of the storage layer ({} for a stock server).
sub new
{
	my ($class, $node, %params) = @_;
	mkdir "$params{dir}/tapes";
	return bless { node => $node, source => 'disk:' . $node->name, kills => 0, first => 1, %params }, $class;
}

sub node { return $_[0]{node}; }

# Settings that put as much as possible at stake: small segments and WAL limits (recycling), few WAL buffers and a slow
# fdatasync (much that is written and not yet durable at any moment).
sub configure
{
	my ($self) = @_;
	$self->{node}->append_conf('postgresql.conf', <<'CONF');
fsync = on
wal_sync_method = fdatasync
wal_buffers = 128kB
max_wal_size = 6MB
min_wal_size = 4MB
wal_keep_size = 16MB
checkpoint_timeout = 30s
wal_writer_delay = 200ms
wal_retrieve_retry_interval = 100ms
max_prepared_transactions = 50
max_wal_senders = 10
hot_standby = on
restart_after_crash = on
recovery_init_sync_method = syncfs
log_min_messages = warning
log_statement = none
log_connections = off
log_disconnections = off
log_replication_commands = off
autovacuum_naptime = 5s
shared_buffers = 8MB
CONF
	return;
}

# Begin a run of the server under the tracer. settings: more for this run's command line.
sub launch
{
	my ($self, @settings) = @_;
	my $node = $self->{node};
	my %env = %{ $self->{env} // {} };
	my @command = ('python3', "$Accounting::tools/tracer.py", '--data', $node->data_dir, '--source', $self->{source},
		'--tapes', "$self->{dir}/tapes", '--events', "$self->{dir}/events", '--log', $node->logfile, '--sync-delay', $self->{sync_delay} // 4000,
		(keys %env ? () : '--stock'), ($self->{first} ? '--first' : ()), (map { ('--env', "$_=$env{$_}") } sort keys %env), '--', 'postgres', '-D', $node->data_dir);
	my $pid = fork() // die "fork: $!";
	if ($pid == 0) {
		@SIG{qw(INT TERM)} = ('DEFAULT') x 2;
		open(STDIN, '<', '/dev/null');
		open(STDOUT, '>>', $node->logfile);
		open(STDERR, '>>', $node->logfile);
		exec(@command) or POSIX::_exit(127);
	}
	$self->{tracer} = $pid;
	$self->{first} = 0;
	push @running, $self;
	return;
}

sub start
{
	my ($self) = @_;
	my $node = $self->{node};
	my $offset = -s $node->logfile // 0;
	$self->launch;
	my $end = time() + $PostgreSQL::Test::Utils::timeout_default;
	while (1) {
		my ($out, $err) = ('', '');
		IPC::Run::run([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', 'SELECT 1' ], '<', \undef, '>', \$out, '2>', \$err);
		last if $? == 0;
		if (waitpid($self->{tracer}, WNOHANG) == $self->{tracer}) {
			$self->{tracer} = undef;
			die $node->name . ' did not start: ' . tail($node->logfile, $offset);
		}
		die $node->name . ' is not ready in time: ' . tail($node->logfile, $offset) if time() > $end;
		sleep(0.05);
	}
	$self->postmaster;
	$node->_update_pid(1);
	return 1;
}

# Start it and kill it before it is ready or soon after: in recovery, or, when it is seen to have a journal, while the first page
# of the run changes its generation (with slower fsyncs, so that any step of that may be the last). Returns the tracer's event.
sub start_and_kill
{
	my ($self, $mode) = @_;
	my $pidfile = $self->{node}->data_dir . '/postmaster.pid';
	my $journals = $self->{node}->data_dir . '/pg_wal/pgsql_tmp*';
	my $wait = rand() < 0.7;
	local $self->{sync_delay} = $wait ? 40000 : $self->{sync_delay};
	$self->launch;
	Walcrypt::wait_for('postmaster.pid', sub { -s $pidfile });
	if ($wait) {
		my $end = time() + 4;
		sleep(0.001) until glob($journals) || time() > $end;
		sleep(rand(0.08));
	} else {
		sleep(rand(0.6));
	}
	return $self->kill9($mode);
}

sub tail
{
	my ($file, $offset) = @_;
	open(my $f, '<', $file) or return '';
	seek($f, $offset, 0);
	local $/;
	my $text = <$f> // '';
	return length($text) > 3000 ? substr($text, -3000) : $text;
}

sub postmaster
{
	my ($self) = @_;
	open(my $f, '<', $self->{node}->data_dir . '/postmaster.pid') or return;
	my $pid = <$f>;
	chomp $pid;
	return $self->{postmaster} = $pid;
}

sub children
{
	my ($parent) = @_;
	my @found;
	for my $stat (glob('/proc/[0-9]*/stat')) {
		open(my $f, '<', $stat) or next;
		my $line = <$f> // next;
		push @found, $1 if $line =~ /^(\d+) \(.*\) \S (\d+) / && $2 == $parent;
	}
	return @found;
}

sub wait_tracer
{
	my ($self) = @_;
	Walcrypt::wait_for("the tracer of " . $self->{node}->name, sub { waitpid($self->{tracer}, WNOHANG) == $self->{tracer} });
	my $status = $?;
	$self->{tracer} = undef;
	unlink $self->{node}->data_dir . '/postmaster.pid' if $self->{killed};
	$self->{node}->_update_pid(0);
	$self->{killed} = 0;
	die 'the tracer of ' . $self->{node}->name . ' failed: ' . tail($self->{node}->logfile, 0) if $status != 0;
	return (Accounting::events("$self->{dir}/events"))[-1];
}

# kill -9 of every process of the server at once; mode says what a power loss does to sectors that are not yet durable
# ('' for none: the kernel lives on). Returns the tracer's event.
sub kill9
{
	my ($self, $mode) = @_;
	my $postmaster = $self->postmaster;
	my $order = $self->{node}->data_dir . '/../tear.' . $self->{source} =~ s/:/-/r;
	if ($mode) {
		open(my $f, '>', $order) or die "$order: $!";
		print $f int(rand(1 << 30)) . " $mode\n";
		close $f;
	}
	kill('STOP', $postmaster);
	kill('KILL', $postmaster, children($postmaster));
	$self->{killed} = 1;
	$self->{kills}++;
	return $self->wait_tracer;
}

# kill -9 of one backend: the postmaster ends the others and starts again by itself, with a new startup process.
sub kill9_backend
{
	my ($self) = @_;
	my $node = $self->{node};
	my $pid = $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'");
	kill('KILL', $pid);
	$self->{kills}++;
	Walcrypt::wait_for('the server to be back', sub {
		my $out = '';
		IPC::Run::run([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'" ],
			'<', \undef, '>', \$out, '2>', \my $err);
		return $? == 0 && $out =~ /^(\d+)$/m && $1 != $pid;
	});
	return;
}

sub stop
{
	my ($self, $mode) = @_;
	return unless defined $self->{tracer};
	PostgreSQL::Test::Utils::system_or_bail('pg_ctl', '-D', $self->{node}->data_dir, '-m', $mode // 'fast', '-w', 'stop');
	return $self->wait_tracer;
}

END
{
	my $status = $?;
	for my $self (grep { defined $_->{tracer} } @running) {
		my $postmaster = $self->postmaster // next;
		kill('KILL', $postmaster, children($postmaster));
	}
	for my $self (grep { defined $_->{tracer} } @running) {
		for (1 .. 500) {
			last if waitpid($self->{tracer}, WNOHANG) != 0;
			sleep(0.02);
		}
		$self->{node}->_update_pid(-1) if $self->{node}->can('_update_pid');
	}
	$? = $status;
}

# A copy of a running server's directory, taken over the relay, as a standby that follows through the relay. user: for a proxy.
sub clone
{
	my ($self, $relay, %params) = @_;
	my $node = $self->{node};
	my $user = defined $params{user} ? " user=$params{user}" : '';
	PostgreSQL::Test::Utils::system_or_bail('rm', '-rf', $node->data_dir);
	mkdir $node->basedir;
	$self->{first} = 1;
	PostgreSQL::Test::Utils::system_or_bail('pg_basebackup', '-D', $node->data_dir, '-d', $relay->connstr . $user, '-c', 'fast', '--no-sync',
		@{ $params{extra} // [] });
	$node->append_conf('postgresql.conf', 'port = ' . $node->port . "\nunix_socket_directories = '" . $node->host . "'\n");
	return $self->follow($relay, %params);
}

sub follow
{
	my ($self, $relay, %params) = @_;
	my $user = defined $params{user} ? " user=$params{user}" : '';
	$self->{node}->append_conf('postgresql.conf',
		"primary_conninfo = '" . $relay->connstr . "$user application_name=" . $self->{node}->name . "'\n");
	$self->{node}->set_standby_mode;
	return;
}

# From its next start it streams from the primary itself.
sub follow_directly
{
	my ($self, $primary) = @_;
	$self->{node}->append_conf('postgresql.conf',
		"primary_conninfo = 'host=" . $primary->host . ' port=' . $primary->port . ' application_name=' . $self->{node}->name . "'\n");
	return;
}

# Wait until this standby has replayed all that the primary has flushed.
sub catch_up
{
	my ($self, $primary) = @_;
	my $lsn = $primary->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
	$self->{node}->poll_query_until('postgres', "SELECT pg_last_wal_replay_lsn() >= '$lsn'")
		or die $self->{node}->name . " does not reach $lsn: " . tail($self->{node}->logfile, 0);
	return;
}

sub promote
{
	my ($self) = @_;
	# not by SQL: replay may cancel a query
	PostgreSQL::Test::Utils::system_or_bail('pg_ctl', '-D', $self->{node}->data_dir, '-s', '-W', 'promote');
	$self->{node}->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die 'not promoted';
	return;
}

# Bytes between a server and its clients.
package Accounting::Relay;

use IO::Socket::UNIX;
use Time::HiRes qw(sleep time);

my @relays;

# to: [socket directory, port]; dir: its tapes/ takes the recording
sub new
{
	my ($class, $name, $to, %params) = @_;
	my $sockets = File::Temp::tempdir('wcrXXXXXX', TMPDIR => 1, CLEANUP => 1);
	my $self = bless { name => $name, sockets => $sockets, port => PostgreSQL::Test::Cluster::get_free_port(), to => $to, %params }, $class;
	mkdir "$params{dir}/tapes";
	my $pid = fork() // die "fork: $!";
	if ($pid == 0) {
		@SIG{qw(INT TERM)} = ('DEFAULT') x 2;
		exec('python3', "$Accounting::tools/relay.py", '--listen', "$sockets:$self->{port}", '--to', join(':', @$to),
			'--source', "wire:$name", '--tapes', "$params{dir}/tapes") or POSIX::_exit(127);
	}
	$self->{pid} = $pid;
	push @relays, $self;
	Walcrypt::wait_for("relay $name", sub {
		my $s = IO::Socket::UNIX->new(Peer => "$sockets/.s.PGSQL.$self->{port}") or return 0;
		close $s;
		return 1;
	});
	return $self;
}

sub connstr { my ($self, $more) = @_; return "host=$self->{sockets} port=$self->{port}" . (defined $more ? " $more" : ''); }

sub stop
{
	my ($self) = @_;
	return unless defined $self->{pid};
	kill('TERM', $self->{pid});
	waitpid($self->{pid}, 0);
	$self->{pid} = undef;
	return;
}

END
{
	my $status = $?;
	$_->stop for @relays;
	$? = $status;
}

# pg_receivewal, ended and begun again at will.
package Accounting::Receiver;

use POSIX qw(WNOHANG);
use Time::HiRes qw(sleep time);

sub new
{
	my ($class, $connstr, $dir) = @_;
	mkdir $dir;
	return bless { connstr => $connstr, dir => $dir }, $class;
}

sub start
{
	my ($self) = @_;
	$self->stop;
	my $pid = fork() // die "fork: $!";
	if ($pid == 0) {
		@SIG{qw(INT TERM)} = ('DEFAULT') x 2;
		open(STDIN, '<', '/dev/null');
		open(STDOUT, '>>', "$self->{dir}.log");
		open(STDERR, '>>', "$self->{dir}.log");
		exec('pg_receivewal', '-D', $self->{dir}, '-d', $self->{connstr}, '--no-sync', '-n') or POSIX::_exit(127);
	}
	$self->{pid} = $pid;
	return;
}

sub stop
{
	my ($self) = @_;
	return unless defined $self->{pid};
	# one that is connecting does not hear the first signal
	kill('INT', $self->{pid});
	my $end = time() + 3;
	while (waitpid($self->{pid}, WNOHANG) == 0) {
		kill('KILL', $self->{pid}) if time() > $end;
		sleep(0.02);
	}
	$self->{pid} = undef;
	return;
}

sub DESTROY { my ($self) = @_; local $?; $self->stop; return; }

# A few clients, and what they were told is committed.
package Accounting::Load;

use POSIX qw(WNOHANG);
use Test::More;

# dir: where scripts and answers go.
sub new
{
	my ($class, $dir) = @_;
	mkdir $dir;
	return bless { dir => $dir, next => 1, acknowledged => {}, attempted => {}, round => 0, prepared => {} }, $class;
}

sub setup
{
	my ($self, $node) = @_;
	$node->safe_psql('postgres', 'CREATE TABLE acked (id int PRIMARY KEY, pad text); CREATE TABLE filler (id int, pad text); CREATE INDEX ON filler (pad)');
	return;
}

# One client's script: small transactions, large ones, some rolled back, some prepared, now and then a checkpoint or a new segment.
sub script
{
	my ($self, $client, $count) = @_;
	my $path = "$self->{dir}/$self->{round}.$client";
	open(my $f, '>', "$path.sql") or die "$path.sql: $!";
	for my $i (1 .. $count) {
		my $id = $self->{next}++;
		my $pad = int(rand(900));
		my $what = rand();
		$self->{attempted}{$id} = 1;
		if ($what < 0.70) {
			print $f "INSERT INTO acked VALUES ($id, repeat(md5('$id'), $pad / 32 + 1));\n\\echo $id\n";
		} elsif ($what < 0.78) {
			print $f "BEGIN; INSERT INTO acked VALUES ($id, 'large'); "
				. "INSERT INTO filler SELECT g, md5((g * $id)::text) || repeat('f', $pad) FROM generate_series(1, 120) g; COMMIT;\n\\echo $id\n";
		} elsif ($what < 0.84) {
			print $f "BEGIN; INSERT INTO filler SELECT g, repeat(md5((g + $id)::text), 9) FROM generate_series(1, 60) g; ROLLBACK;\n";
		} elsif ($what < 0.92) {
			# the acknowledgement of PREPARE counts; half of them stay prepared over the crash
			print $f "BEGIN; INSERT INTO acked VALUES ($id, repeat('p', $pad)); PREPARE TRANSACTION 'p$id';\n\\echo $id\n";
			print $f "COMMIT PREPARED 'p$id';\n" if rand() < 0.9;
		} elsif ($what < 0.97) {
			# not waited for, so never acknowledged: WAL that is written and not yet durable
			print $f "SET synchronous_commit = off; INSERT INTO filler SELECT g, repeat('a', $pad) FROM generate_series(1, 40) g; RESET synchronous_commit;\n";
		} elsif ($client == 0) {
			print $f $what < 0.985 ? "CHECKPOINT;\n" : "SELECT pg_switch_wal() \\g /dev/null\n";
		}
	}
	close $f;
	return $path;
}

sub start
{
	my ($self, $node, $clients, $count) = @_;
	$self->{round}++;
	$self->{clients} = [];
	$self->client($node, $self->script($_, $count)) for 0 .. $clients - 1;
	return;
}

sub client
{
	my ($self, $node, $path) = @_;
	my $pid = fork() // die "fork: $!";
	if ($pid == 0) {
		@SIG{qw(INT TERM)} = ('DEFAULT') x 2;
		open(STDIN, '<', '/dev/null');
		open(STDOUT, '>', "$path.acked");
		open(STDERR, '>', "$path.err");
		exec('psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-f', "$path.sql") or POSIX::_exit(127);
	}
	push @{ $self->{clients} }, { pid => $pid, path => $path };
	return;
}

# Just before a kill: one transaction that is too large to end, so that much is written and not yet durable when the power goes. Every second
# time the other clients are held up, whose commits would make it durable; finish lets them go on.
sub burst
{
	my ($self, $node) = @_;
	my $path = "$self->{dir}/$self->{round}.burst";
	open(my $f, '>', "$path.sql") or die "$path.sql: $!";
	print $f "INSERT INTO filler SELECT g, repeat(md5(random()::text), 9) FROM generate_series(1, 100000) g;\n";
	close $f;
	my $at = $node->lsn('insert');
	kill('STOP', map { $_->{pid} } @{ $self->{clients} }) if rand() < 0.5;
	$self->client($node, $path);
	$node->poll_query_until('postgres', "SELECT pg_current_wal_insert_lsn() > '$at'::pg_lsn + 400000") or die 'nothing was written';
	Time::HiRes::sleep(rand(0.02));
	return;
}

# Wait for the clients (the server is gone, or they are done) and take down what was acknowledged.
sub finish
{
	my ($self) = @_;
	kill('CONT', map { $_->{pid} } @{ $self->{clients} });
	for my $client (@{ $self->{clients} }) {
		Walcrypt::wait_for('a client to end', sub { waitpid($client->{pid}, WNOHANG) == $client->{pid} });
		open(my $f, '<', "$client->{path}.acked") or die;
		while (<$f>) {
			$self->{acknowledged}{$1} = 1 if /^(\d+)$/;
		}
		close $f;
		unlink "$client->{path}.sql", "$client->{path}.acked";
	}
	$self->{clients} = [];
	return;
}

# What must be equal on a primary and its standby.
sub sums
{
	my ($self, $node) = @_;
	return $node->safe_psql('postgres', "SELECT (SELECT count(*) || '/' || sum(hashtext(pad)::bigint) FROM acked), "
		. "(SELECT count(*) || '/' || sum(hashtext(pad)::bigint) FROM filler)");
}

# Is every acknowledged transaction there, and nothing that was never tried? Dangling prepared ones are committed on the way (a standby's are left).
sub lost
{
	my ($self, $node) = @_;
	my $standby = $node->safe_psql('postgres', 'SELECT pg_is_in_recovery()') eq 't';
	my %there = map { $_ => 1 } split /\n/, $node->safe_psql('postgres', 'SELECT id FROM acked');
	for my $gid (split /\n/, $node->safe_psql('postgres', 'SELECT gid FROM pg_prepared_xacts')) {
		$there{ substr($gid, 1) } = 1;
		$node->safe_psql('postgres', "COMMIT PREPARED '$gid'") unless $standby;
	}
	my @lost = sort { $a <=> $b } grep { !$there{$_} } keys %{ $self->{acknowledged} };
	my @made_up = grep { !$self->{attempted}{$_} } keys %there;
	# a transaction that was lost once is reported once
	delete @{ $self->{acknowledged} }{@lost};
	return (@lost, map { "$_ (never sent)" } @made_up);
}

1;
