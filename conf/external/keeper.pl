#!/usr/bin/perl
# A key keeper for walcrypt's provider external: (docs/formats/external.md), to begin your own from. It keeps keys in files.
#
#   uri = external:main:/usr/local/share/walcrypt/external/keeper.pl /var/lib/keeper
#
# Each key is a file DIR/NAME of mode 0600; in its name, what is no letter, digit or one of - _ ~ is written as %XX, so that
# no name leads out of the folder. Wants nothing but Perl. It ends when its stdin does.
use strict;
use warnings;
use Errno qw(EEXIST ENOENT);
use Fcntl;
use IO::Handle;

my $dir = shift // die "usage: keeper.pl DIR\n";
-d $dir or mkdir($dir, 0700) or die "$dir: $!\n";
$| = 1;
umask(077);

sub escaped   { return $_[0] =~ s/([^A-Za-z0-9_~-])/sprintf('%%%02X', ord($1))/ger; }
sub unescaped { return $_[0] =~ s/%([0-9A-Fa-f]{2})/chr(hex($1))/ger; }

# What was asked may hold a key: nothing of it is ever logged.
my %answer = (
	init => sub {
		my ($who, $version) = @_;
		return ($who // '') eq 'walcrypt' && ($version // '') eq '1' ? 'ok 1 keeper.pl' : 'error unsupported only version 1 is spoken here';
	},
	create => sub {
		my ($name, $key) = @_;
		return 'error failed a key is 64 hexadecimal digits' unless ($key // '') =~ /^[0-9A-Fa-f]{64}$/;
		my $path = "$dir/" . escaped($name);
		# made under another name first: what is cut off half-way is no key
		sysopen(my $f, "$path.new", O_WRONLY | O_CREAT | O_TRUNC, 0600) or return "error failed $!";
		print($f "$key\n") && $f->sync && close($f) or return "error failed $!";
		my $made = link("$path.new", $path);
		my $why  = $! + 0;
		unlink("$path.new");
		sync_dir();
		return $made ? 'ok' : $why == EEXIST ? 'error exists' : 'error failed the file cannot be made';
	},
	get => sub {
		my ($name) = @_;
		open(my $f, '<', "$dir/" . escaped($name)) or return $! == ENOENT ? 'error absent' : "error unavailable $!";
		chomp(my $key = <$f> // '');
		return "ok $key";
	},
	list => sub {
		opendir(my $d, $dir) or return "error unavailable $!";
		my @names = sort grep { !/\./ } readdir($d);    # no name has a dot: it is escaped
		return join("\n", 'ok ' . @names, @names);
	},
	destroy => sub {
		my ($name) = @_;
		my $path = "$dir/" . escaped($name);
		return unlink($path) ? (sync_dir(), 'ok')[-1] : $! == ENOENT ? 'error absent' : "error failed $!";
	},
	random => sub {
		my ($n) = @_;
		return 'error failed 1 to 512 bytes' unless ($n // '') =~ /^\d{1,3}$/ && $n >= 1 && $n <= 512;
		return 'ok ' . unpack('H*', random_bytes($n));
	});

sub random_bytes
{
	my ($n) = @_;
	open(my $f, '<:raw', '/dev/urandom') or die "/dev/urandom: $!\n";
	sysread($f, my $bytes, $n) == $n or die "/dev/urandom: short read\n";
	return $bytes;
}

sub sync_dir
{
	sysopen(my $d, $dir, O_RDONLY) or return;
	$d->sync;
	return;
}

while (defined(my $line = <STDIN>)) {
	chomp $line;
	my ($verb, @arguments) = split(/ /, $line);
	$arguments[0] = unescaped($arguments[0]) if defined $arguments[0] && ($verb // '') =~ /^(create|get|destroy)$/;
	my $do = $answer{ $verb // '' };
	if (!$do) { print "error unsupported\n"; next; }
	if ($verb =~ /^(create|get|destroy)$/ && ($arguments[0] // '') eq '') { print "error failed a name is missing\n"; next; }
	print $do->(@arguments), "\n";
}
