# What the tests of key providers do again and again: small files, configurations with one [kek] section, commands that must fail.
#
#   put($path, $text, $mode)                                     a file, mode 0600; its path
#   never_said(qr/root-of-/)                                     what no message may hold, beside 64 hexadecimal digits
#   refused(4, qr/could not reach/, 'down', 'key', 'list', ...)  walcrypt-ctl ends so and says so; its stdout
#   kek_conf($dir, $uri, 'timeout = 1s')                         a configuration with a keystore of its own; its path
#   init_with($dir, $uri, $create, @more)                        key init blue with such a one: (status, stdout, stderr)
use strict;
use warnings;

package Walcrypt::KeyCommands;

use Exporter 'import';
use Test::More;
use Walcrypt;

our @EXPORT = qw(put never_said refused kek_conf last_conf init_with init_refused);
my @never = (qr/\b[0-9a-f]{64}\b/);
my ($n, $last) = (0);

sub put
{
	my ($path, $text, $mode) = @_;
	open(my $f, '>', $path) or die "$path: $!";
	print $f $text;
	close $f or die "$path: $!";
	chmod($mode // 0600, $path);
	return $path;
}

sub never_said { push @never, @_; return; }

sub ended
{
	my ($status, $words, $name, $rc, $out, $err) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 2;
	is($rc, $status, "$name: exit status");
	like($err, $words, "$name: message");
	is(scalar(grep { "$out$err" =~ $_ } @never), 0, "$name: no secret in it");
	return $out;
}

sub refused
{
	my ($status, $words, $name, @args) = @_;
	return ended($status, $words, $name, ctl_output(@args));
}

sub kek_conf
{
	my ($dir, $uri, @more) = @_;
	$n++;
	return $last = put("$dir/c$n.ini", join('', map { "$_\n" } '[walcrypt]', 'auth_type = trust', "keystore = $dir/ks$n", '[kek site]', "uri = $uri", @more,
			'[node red]', "conninfo = host=$dir port=1", 'keyset = none', map { ("[node $_]", "keyset = $_", 'kek = site') } qw(blue green)));
}

# The one that was made last.
sub last_conf { return $last; }

sub init_with
{
	my ($dir, $uri, $create, @more) = @_;
	return ctl_output(qw(key init blue --system-identifier 7000000000000000001), ($create ? '--create-kek' : ()), '--config', kek_conf($dir, $uri, @more));
}

# What it is refused for without --create-kek.
sub init_refused
{
	my ($dir, $status, $words, $name, $uri, @more) = @_;
	return ended($status, $words, $name, init_with($dir, $uri, 0, @more));
}

1;
