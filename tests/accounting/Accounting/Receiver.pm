# pg_receivewal, ended and begun again at will.
use strict;
use warnings;

package Accounting::Receiver;

use POSIX qw(WNOHANG);
use Time::HiRes qw(sleep time);
use Walcrypt ();

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
	$self->{pid} = Walcrypt::in_background("$self->{dir}.log", 'pg_receivewal', '-D', $self->{dir}, '-d', $self->{connstr}, '--no-sync', '-n');
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

1;
