# Makes classes with every pure virtual method of NVIDIA's interfaces, each of which ends the program by name:
# the stand-in overrides those that sam2d calls, and any other call is a failed test, not a wrong answer.
# Usage: perl stubs.pl NvInferImpl.h > stubs.inc
use strict;
use warnings;
local $/;
my $text = <>;
# Off in the libraries that NVIDIA ships, and after every slot in use.
$text =~ s{^#if ENABLE_FEATURE_.*?^#endif[^\n]*$}{}gms;
$text =~ s{//[^\n]*}{}g;
$text =~ s{/\*.*?\*/}{}gs;
$text =~ s{^#[^\n]*$}{}gm;
$text =~ s{TRT_NODISCARD|TRT_DEPRECATED}{}g;
for my $class (qw(VRuntime VCudaEngine VExecutionContext)) {
  my ($body) = $text =~ /class $class : public VRoot\s*\{(.*?)\n\};/s or die "no $class in the header";
  print "struct Stub$class : apiv::$class {\n";
  for my $method ($body =~ /virtual\s+(.*?)\s*=\s*0\s*;/gs) {
    $method =~ s/\s+/ /g;
    my ($name) = $method =~ /(\w+)\s*\(/ or die "no name in $method";
    print "  $method override { stub(\"$class.$name\"); }\n";
  }
  print "};\n";
}
