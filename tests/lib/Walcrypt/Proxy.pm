# A walcrypt-proxy of a test: its configuration, its process and its console. Walcrypt.pm loads it and shows its use.
use strict;
use warnings;

package Walcrypt::Proxy;

use File::Basename ();
use IO::Socket::UNIX;
use IPC::Run ();
use POSIX ();
use PostgreSQL::Test::Cluster ();
use PostgreSQL::Test::Utils ();
use Test::More ();

my $serial = 0;
my @running;

# nodes => { name => { conninfo, keyset, profile } }; listens => { name => { listen_port ... } }; settings => { name => value } for [walcrypt]; kek_uri, kek_options => { ... } for [kek site]; keks => { name => uri } for others; dir, kek to reuse another's.
sub new
{
	my ($class, %params) = @_;
	my $test = File::Basename::basename($0, '.pl');
	my $dir = $params{dir} // "$PostgreSQL::Test::Utils::tmp_check/p_${test}_" . ++$serial;
	mkdir $dir, 0700;
	my $sockets = PostgreSQL::Test::Utils::tempdir_short();
	my $self = bless {
		dir => $dir, sockets => $sockets, port => PostgreSQL::Test::Cluster::get_free_port(),
		kek => $params{kek} // Walcrypt::kek_file("$dir/kek"), kek_uri => $params{kek_uri}, kek_options => $params{kek_options} // {}, keks => $params{keks} // {}, nodes => $params{nodes} // {}, settings => $params{settings} // {}, listens => $params{listens} // {},
		logfile => "$PostgreSQL::Test::Utils::log_path/${test}_proxy" . ($serial > 1 ? $serial : '') . '.log',
	}, $class;
	mkdir "$dir/keystore", 0700;
	$self->write_conf;
	return $self;
}

sub conf     { return "$_[0]{dir}/walcrypt.ini"; }
sub keystore { return "$_[0]{dir}/keystore"; }
sub logfile  { return $_[0]{logfile}; }
sub log      { return Walcrypt::slurp_from($_[0]{logfile}, $_[1]); }
sub log_size { return -s $_[0]{logfile} // 0; }
sub port     { return $_[0]{port}; }
sub host     { return $_[0]{sockets}; }
sub pid      { return $_[0]{pid}; }
sub kek_uri  { return $_[0]{kek_uri} // "file:$_[0]{kek}"; }
sub tcp      { my ($self, $user) = @_; return "host=127.0.0.1 port=$self->{port} user=$user"; }
sub connstr  { my ($self, $user) = @_; return "host=$self->{sockets} port=$self->{port} user=$user"; }

sub write_conf
{
	my ($self) = @_;
	my %set = (
		listen_addr => '127.0.0.1', listen_port => $self->{port}, unix_socket_dir => $self->{sockets}, auth_type => 'trust',
		keystore => $self->keystore, admin_users => 'walcrypt_admin', stats_users => 'monitor', %{ $self->{settings} });
	my $umask = umask(077);
	open(my $f, '>', $self->conf) or die $self->conf . ": $!";
	print $f "[walcrypt]\n", map { "$_ = $set{$_}\n" } sort grep { defined $set{$_} } keys %set;
	print $f "\n[kek site]\nuri = " . $self->kek_uri . "\n", map { "$_ = $self->{kek_options}{$_}\n" } sort keys %{ $self->{kek_options} };
	print $f map { "\n[kek $_]\nuri = $self->{keks}{$_}\n" } sort keys %{ $self->{keks} };
	for my $name (sort keys %{ $self->{nodes} }) {
		my %node = %{ $self->{nodes}{$name} };
		my $kind = delete $node{profile} ? 'profile' : 'node';
		$node{keyset} //= 'none';
		$node{kek} //= 'site' if $node{keyset} ne 'none';
		print $f "\n[$kind $name]\n", map { "$_ = $node{$_}\n" } sort keys %node;
	}
	for my $name (sort keys %{ $self->{listens} }) {
		my %listen = %{ $self->{listens}{$name} };
		print $f "\n[listen $name]\n", map { "$_ = $listen{$_}\n" } sort keys %listen;
	}
	close $f;
	umask($umask);
	return;
}

# A file of users: name => verifier.
sub write_users
{
	my ($self, %users) = @_;
	my $umask = umask(077);
	open(my $f, '>', "$self->{dir}/users") or die "$self->{dir}/users: $!";
	print $f map { my $name = $_; $name =~ s/"/""/g; "\"$name\" \"$users{$_}\"\n" } sort keys %users;
	close $f;
	umask($umask);
	return "$self->{dir}/users";
}

# Make a keyset for each name; the configured primary must be running (or pass --system-identifier).
sub key_init
{
	my ($self, $name, @options) = @_;
	Walcrypt::ctl('key', 'init', $name, '--config', $self->conf, @options);
	return;
}

# Start; with fail_ok returns 0 when it ends instead of listening.
sub start
{
	my ($self, %params) = @_;
	my $offset = $self->log_size;
	my $pid = $self->{pid} = Walcrypt::in_background($self->{logfile}, @{ $params{wrapper} // [] }, $Walcrypt::proxy, '-c', $self->conf);
	push @running, $self;
	my $socket = "$self->{sockets}/.s.PGSQL.$self->{port}";
	my $up = Walcrypt::wait_for('the proxy to listen', sub {
		return 'ended' if waitpid($pid, POSIX::WNOHANG()) == $pid;
		my $s = IO::Socket::UNIX->new(Peer => $socket) or return 0;
		close $s;
		return 'up';
	});
	if ($up eq 'ended') {
		$self->{pid} = undef;
		return 0 if $params{fail_ok};
		die "the proxy did not start: " . $self->log($offset);
	}
	return 1;
}

# Returns the wait status.
sub stop
{
	my ($self, $signal) = @_;
	return unless defined $self->{pid};
	kill($signal // 'TERM', $self->{pid});
	my $pid = $self->{pid};
	Walcrypt::wait_for('the proxy to end', sub { waitpid($pid, POSIX::WNOHANG()) == $pid });
	$self->{pid} = undef;
	return $?;
}

sub kill9   { return $_[0]->stop('KILL'); }
sub restart { my ($self) = @_; $self->stop; return $self->start; }

# One test: a rotation from one node to another, which both objects know afterwards.
sub rotate
{
	my ($self, $from, $to) = @_;
	my ($rc, $out, $err) = Walcrypt::ctl_output('rotate', '--config', $self->conf, '--to', $to->name);
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	Test::More::is($rc, 0, 'rotate to ' . $to->name) or Test::More::diag($out, $err);
	$from->_update_pid(0);
	$to->_update_pid(1);
	return;
}

# Until one node streams from another by SHOW STANDBYS.
sub wait_for_stream
{
	my ($self, $name, $from) = @_;
	Walcrypt::wait_for("$name to stream from $from", sub { $self->console('SHOW STANDBYS') =~ /^\Q$name\E\|\Q$name\E\|[^|]*\|streams\|\d+\|\Q$from\E\|/m });
	return;
}

# One query on the console; psql's unaligned output.
sub console
{
	my ($self, $query) = @_;
	my ($out, $err) = ('', '');
	IPC::Run::run([ 'psql', '-XAt', '-d', $self->connstr('walcrypt_admin') . ' dbname=walcrypt', '-c', $query ], '<', \undef, '>', \$out, '2>', \$err);
	chomp $out;
	return wantarray ? ($out, $err) : $out;
}

END
{
	# END blocks must not change the test's status
	my $status = $?;
	$_->stop('KILL') for grep { defined $_->{pid} } @running;
	$? = $status;
}

1;
