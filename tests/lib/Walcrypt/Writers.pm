# Clients that write all the time, one row a commit, through a conninfo with several hosts; and the account of what was acknowledged.
#
#   my $writers = Walcrypt::Writers->new(4, $red, $blue);     the table is made on the first node
#   $writers->start; $writers->wait_for_commits(100); ...
#   $writers->account($blue);                              they are stopped: two tests, or three
#
# A writer that loses its connection connects again and goes on with its next number: what the lost commit came to is not known, and
# it may be there or not. What was acknowledged must be there, once.
use strict;
use warnings;

package Walcrypt::Writers;

use IPC::Run ();
use POSIX ();
use PostgreSQL::Test::Utils ();
use Test::More ();
use Time::HiRes qw(sleep time);
use Walcrypt ();

my $serial = 0;
my @all;

sub new
{
	my ($class, $n, @nodes) = @_;
	my $table = 'written' . ++$serial;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	$nodes[0]->safe_psql('postgres', "CREATE TABLE $table (writer int, number int, at timestamptz DEFAULT clock_timestamp())");
	my $self = bless { n => $n, nodes => \@nodes, table => $table, dir => $dir, pids => [] }, $class;
	push @all, $self;
	return $self;
}

sub table { return $_[0]{table}; }
sub conninfo
{
	my ($self) = @_;
	return $self->{conninfo} if defined $self->{conninfo};
	my @nodes = @{ $self->{nodes} };
	return 'dbname=postgres connect_timeout=5 target_session_attrs=read-write host=' . join(',', map { $_->host } @nodes) . ' port=' . join(',', map { $_->port } @nodes);
}

# Each is a shell loop around psql: rows come in one by one, and what psql has printed was acknowledged.
sub start
{
	my ($self) = @_;
	for my $w (1 .. $self->{n}) {
		my $pid = fork() // die "fork: $!";
		if ($pid == 0) {
			POSIX::setpgid(0, 0);
			$self->write_all($w);
			POSIX::_exit(0);
		}
		POSIX::setpgid($pid, $pid);
		push @{ $self->{pids} }, $pid;
	}
	return;
}

sub write_all
{
	my ($self, $w) = @_;
	my ($first, $table) = (1, $self->{table});
	my $acked = "$self->{dir}/acked.$w";
	while (1) {
		my $sql = join('', map { "INSERT INTO $table VALUES ($w, $_) RETURNING number || ' ' || current_setting('cluster_name') || ' ' || extract(epoch FROM clock_timestamp());\n" } $first .. $first + 4999);
		open(my $in, '>', "$self->{dir}/in.$w") or die;
		print $in $sql;
		close $in;
		system("psql -XAtq -v ON_ERROR_STOP=1 -d '" . $self->conninfo . "' -f $self->{dir}/in.$w >>$acked 2>>$self->{dir}/err.$w </dev/null");
		$first += 5000;
		sleep(0.01);
	}
	return;
}

sub lines { my ($self, $file) = @_; return map { split(/\n/, Walcrypt::slurp_from("$self->{dir}/$file.$_")) } 1 .. $self->{n}; }

# Until n more commits than now are acknowledged; name: by the node with that cluster_name.
sub wait_for_commits
{
	my ($self, $n, $name) = @_;
	my $count = sub { return scalar grep { !defined $name || / \Q$name\E / } $self->lines('acked'); };
	my $want = $count->() + $n;
	Walcrypt::wait_for("$n commits", sub { return $count->() >= $want; });
	return;
}

sub stop
{
	my ($self) = @_;
	for my $pid (splice @{ $self->{pids} }) {
		kill('KILL', -$pid);
		waitpid($pid, 0);
	}
	return;
}

# How many acknowledged commits are not there, how many rows are there twice, and errors other than those of a connection.
sub check
{
	my ($self, $node) = @_;
	my (%there, $twice);
	for (split(/\n/, $node->safe_psql('postgres', "SELECT writer || ' ' || number FROM $self->{table}"))) {
		$twice++ if $there{$_}++;
	}
	my ($lost, $acked) = (0, 0);
	for my $w (1 .. $self->{n}) {
		for (split(/\n/, Walcrypt::slurp_from("$self->{dir}/acked.$w"))) {
			my ($number) = /^(\d+) \S+ [\d.]+$/ or next;
			$acked++;
			$lost++ unless $there{"$w $number"};
		}
	}
	my $errors = join("\n", grep { !/^$|server closed the connection|terminated abnormally|before or while|connection to server .* failed|could not connect|No such file|Is the server running|Connection refused|terminating connection|the database system is|Consistent recovery state|session is (not|in) |connection to server was lost|no connection to the server|^\s+(This|before|Is)|SSL|LINE|\^/ } $self->lines('err'));
	print "# $acked commits were acknowledged, " . keys(%there) . " rows are there\n";
	return ($lost, $twice // 0, $errors);
}

# Stops them. Two tests: what was acknowledged is on the node, once; with only_lost_connections => 1 a third: that is all the clients saw.
sub account
{
	my ($self, $node, %o) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$self->stop;
	my ($lost, $twice, $errors) = $self->check($node);
	Test::More::is($lost, 0, 'no acknowledged commit is lost');
	Test::More::is($twice, 0, 'none is there twice');
	Test::More::is($errors, '', 'clients saw nothing but lost connections') if $o{only_lost_connections};
	return ($lost, $twice);
}

# Seconds from the last commit acknowledged by one node to the first by the other.
sub pause
{
	my ($self, $from, $to) = @_;
	my ($last, $first);
	for ($self->lines('acked')) {
		my ($name, $at) = /^\d+ (\S+) ([\d.]+)$/ or next;
		$last = $at if $name eq $from && (!defined $last || $at > $last);
		$first = $at if $name eq $to && (!defined $first || $at < $first);
	}
	return $first - $last;
}

END { my $status = $?; $_->stop for @all; $? = $status; }

1;
