# A few clients, and what they were told is committed.
use strict;
use warnings;

package Accounting::Load;

use POSIX qw(WNOHANG);
use Test::More;
use Time::HiRes ();
use Walcrypt ();

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
	my $pid = Walcrypt::in_background([ "$path.acked", "$path.err" ], 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-f', "$path.sql");
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
