# A PostgreSQL::Test::Cluster node whose server runs under the tracer.
use strict;
use warnings;

package Accounting::Server;

use IPC::Run ();
use POSIX qw(WNOHANG);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use Walcrypt ();

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
	$self->{tracer} = Walcrypt::in_background($node->logfile, @command);
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

1;
